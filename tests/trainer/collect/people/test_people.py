"""Which rollouts go to people, and what their corrections become in a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from preceptor_clients.contract.corrections import EditRules, Result
from preceptor_clients.contract.schemas import FeedbackItem, Message, Prompt
from preceptor_clients.targets.builder import Target, TargetComponent
from preceptor_clients.targets.edits import LabelRules, compile_edit, edit_answer
from preceptor_clients.targets.spelling import TokenizerSpelling
from preceptor_trainer.collect.context import InView
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.people.labels import (
    Answered,
    base_query,
    corrected_attempt,
    forced_prefix,
    labelled_by_people,
    repeated,
    rolled_on,
    takeover_query,
)
from preceptor_trainer.collect.people.people import PeopleConfig
from preceptor_trainer.collect.people.selection import (
    AnyOf,
    Disagreement,
    Failed,
    RandomShare,
    Uncertainty,
    disagreement,
)
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.sampling.sampler import Generation
from preceptor_trainer.tasks.task import NOT_JUDGED, RecordedProblem

VOCAB = "ab" * 32
STUDENT = Path(__file__).parents[4] / "trainer/preceptor_trainer/student/model/tokenizer.json"


@pytest.fixture(scope="module")
def spelling() -> TokenizerSpelling:
    tokenizer: Any = Tokenizer.from_file(str(STUDENT))
    return TokenizerSpelling(tokenizer, eos_id=257, special_ids=range(256, 261))


def ids_of(text: str) -> np.ndarray:
    return np.array([*text.encode(), 257], np.int32)


def row(
    group: int = 0, score: float | None = 0.0, surprise: float = 0.1, target: Target | None = None
) -> Labelled:
    ids = ids_of("x[0]")
    rollout = Rollout(
        rollout_id=f"r-{group}-{score}",
        group_id=f"g{group}",
        group=group,
        problem=RecordedProblem(id="p", messages=[{"role": "user", "content": "?"}]),
        payload_sha256="",
        prompt_ids=[63],
        response_ids=ids,
        response_text="x[0]",
        behaviour_logprobs=np.full(len(ids), -surprise, np.float32),
        owned=np.ones(len(ids), np.bool_),
        finish_reason="stop",
        step=0,
        weights="demo/l0/0",
    )
    items = ()
    if score is not None:
        items = (FeedbackItem(id="f", kind="execution", score=score, source="e", version="1"),)
    attempt = Attempt(rollout=rollout, items=items, task=NOT_JUDGED)
    return Labelled(attempt=attempt, in_view=InView((), frozenset()), target=target)


def component(name: str, tokens: list[int], prob: float) -> TargetComponent:
    T = len(tokens)
    return TargetComponent(
        answer_id=name,
        expert=name,
        kind="topk",
        ids_TK=np.array(tokens, np.int32)[:, None],
        probs_TK=np.full((T, 1), prob, np.float32),
        tail_T=np.full(T, 1 - prob, np.float32),
        weight_T=np.full(T, 0.5, np.float32),
        own_logprobs_T=np.full(T, -1.0, np.float32),
        own_mask_T=np.ones(T, np.bool_),
        candidate_logprobs_TC=np.zeros((T, 0), np.float32),
        candidate_mask_TC=np.zeros((T, 0), np.bool_),
    )


def target_of(*components: TargetComponent) -> Target:
    empty = np.zeros((len(components[0].weight_T), 0), np.int32)
    return Target(rollout_id="r", components=components, candidate_ids_TC=empty)


def result(text: str | None, base: str = "x[0]+1") -> Result:
    return Result(
        cursor=1,
        kind="settled",
        item="ci-1",
        round="r",
        version="cv-1",
        decision="edit" if text is not None else "accept",
        text=text,
        person="ann",
        rollout_id="r",
        problem_id="p",
        prompt=Prompt(messages=(Message(role="user", content="?"),), ids=np.array([63], np.int32)),
        response_ids=tuple(int(i) for i in ids_of(base)),
        response_text=base,
    )


def answered(
    spelling: TokenizerSpelling, of: Result, *, takeover: bool, accepted: bool = False
) -> Answered:
    """As the people's expert answers."""
    rules = LabelRules(accepted=accepted)
    base = np.array(of.response_ids, np.int32)
    edit = compile_edit(spelling, base, of.text or "", of.edits)
    query = takeover_query(of, spelling, VOCAB)
    assert query is not None
    labels = edit.takeover_labels(accepted=accepted)
    if not takeover:
        query = query.model_copy(update={"response_ids": base})
        labels = edit.base_labels(accepted=accepted)
    answer = edit_answer(query, labels, rules, expert="people", expert_version="1")
    return Answered("a-1", query, answer)


USE: dict[str, int | str] = {"step": 3, "weights": "demo/l0/3"}


def test_failed_rollouts_of_unsolved_problems_come_first_and_one_of_each() -> None:
    rows = [row(0, 0.0), row(0, 0.0), row(1, 1.0), row(1, 0.0), row(2, None)]

    wishes = Failed()(rows, torch.Generator())

    assert [None if w is None else w.priority for w in wishes] == [2.0, None, None, 1.0, None]


def test_experts_disagree_as_far_as_their_distributions_differ() -> None:
    far = row(target=target_of(component("a", [1, 2], 1.0), component("b", [1, 3], 1.0)))
    near = row(target=target_of(component("a", [1, 2], 0.8), component("b", [1, 2], 0.9)))

    wishes = Disagreement(at_least=0.5)([far, near, row()], torch.Generator())

    assert disagreement(far) == pytest.approx(1.0)
    assert disagreement(near) < 0.2
    assert [w is not None for w in wishes] == [True, False, False]


def test_uncertainty_is_the_students_own_surprise() -> None:
    wishes = Uncertainty(at_least=1.0)([row(surprise=2.0), row(surprise=0.2)], torch.Generator())

    assert [None if w is None else round(w.priority, 4) for w in wishes] == [2.0, None]


def test_a_random_share_is_of_its_size_and_repeatable() -> None:
    rows = [row(g) for g in range(400)]

    drawn = [RandomShare(share=0.25)(rows, torch.Generator().manual_seed(1)) for _ in range(2)]

    assert drawn[0] == drawn[1]
    assert 60 < sum(w is not None for w in drawn[0]) < 140


def test_several_policies_join_their_reasons() -> None:
    [wish] = AnyOf(policies=(Failed(), Uncertainty(at_least=0.0)))([row()], torch.Generator())

    assert wish is not None
    assert (wish.priority, wish.reason) == (2.0, "failed, uncertainty")


def test_a_correction_labels_the_students_own_sequence_where_it_departs(
    spelling: TokenizerSpelling,
) -> None:
    correction = result("x[9]+1")

    labelled = labelled_by_people(
        correction,
        answered(spelling, correction, takeover=False),
        "use-1",
        0,
        **USE,
        weight=2.0,
        accepted_weight=0.0,
    )

    assert labelled.target is not None
    [part] = labelled.target.components
    assert part.weight_T.tolist() == [0, 0, 2, 0, 0, 0, 0]
    assert part.ids_TK[2].tolist() == [ord("9")]
    assert labelled.attempt.rollout.given
    assert labelled.attempt.rollout.group_id == "people/r"
    assert labelled.record() is not None


def test_accepted_tokens_weigh_what_the_run_says(spelling: TokenizerSpelling) -> None:
    correction = result("x[9]+1")

    labelled = labelled_by_people(
        correction,
        answered(spelling, correction, takeover=False, accepted=True),
        "use-1",
        0,
        **USE,
        weight=1.0,
        accepted_weight=0.25,
    )

    assert labelled.target is not None
    assert labelled.target.components[0].weight_T.tolist() == [
        0.25,
        0.25,
        1,
        0.25,
        0.25,
        0.25,
        0.25,
    ]


def test_the_take_over_is_the_corrected_text_with_labels_on_what_was_written(
    spelling: TokenizerSpelling,
) -> None:
    correction = result("x[99]+1")

    labelled = labelled_by_people(
        correction,
        answered(spelling, correction, takeover=True),
        "use-1",
        0,
        **USE,
        weight=1.0,
        accepted_weight=0.0,
    )

    assert labelled.attempt.rollout.response_text == "x[99]+1"
    assert labelled.target is not None
    assert np.flatnonzero(labelled.target.labelled_T()).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("corrected", "accepted", "said_twice"),
    [
        ("x[99]+1", False, True),
        ("x[0]", False, True),
        ("y[0]+9", False, False),  # `9` is wanted after the student's own start too
        ("x[99]+1", True, False),
    ],
)
def test_labels_of_one_departure_are_the_take_overs_too(
    spelling: TokenizerSpelling, corrected: str, accepted: bool, said_twice: bool
) -> None:
    correction = result(corrected)

    own, takeover = (
        answered(spelling, correction, takeover=which, accepted=accepted) for which in (False, True)
    )

    assert repeated(own, takeover) is said_twice


def test_an_unchanged_text_has_no_take_over(spelling: TokenizerSpelling) -> None:
    assert takeover_query(result(None), spelling, VOCAB) is None
    assert takeover_query(result("x[0]+1"), spelling, VOCAB) is None


def test_a_correction_as_feedback_is_traceable(spelling: TokenizerSpelling) -> None:
    attempt = corrected_attempt(result("x[9]+1"), "use-1", 0, **USE)

    [item] = attempt.items
    assert (item.kind, item.text, item.id) == ("correction", "x[9]+1", "correction-cv-1")
    assert item.details["person"] == "ann"
    assert attempt.rollout.response_text == "x[0]+1"


def test_a_rollout_begins_with_the_change_as_the_rounds_rules_end_it(
    spelling: TokenizerSpelling,
) -> None:
    correction = result("aXb2c taiY", base="a1b2c tail")
    far = correction.model_copy(update={"edits": EditRules(rejoin_tokens=1000)})

    assert bytes(forced_prefix(correction, spelling)) == b"aX"
    assert bytes(forced_prefix(far, spelling)) == b"aXb2c taiY"


def test_a_rollout_goes_on_from_a_correction_and_owns_only_what_follows(
    spelling: TokenizerSpelling,
) -> None:
    correction = result("x[9]+1")
    start = forced_prefix(correction, spelling)
    ids = np.array([*start, ord("]"), 257], np.int32)
    generation = Generation(
        response_ids=ids,
        logprobs=np.full(len(ids), -0.5, np.float32),
        finish_reason="stop",
        num_forced=len(start),
    )

    rollout = rolled_on(correction, generation, "x[9]", "use-1", 0, **USE)

    assert bytes(start) == b"x[9"
    assert rollout.owned.tolist() == [False, False, False, True, True]
    assert rollout.given


def test_what_is_asked_of_people_is_the_rollout_itself() -> None:
    asked = row()

    query = base_query(asked, VOCAB)

    assert query.rollout_id == asked.attempt.rollout.rollout_id
    assert query.response_ids.tolist() == asked.attempt.rollout.response_ids.tolist()


@pytest.mark.parametrize(
    ("field", "value"),
    [("per_round", 0), ("per_step", 0), ("round_steps", 0), ("weight", 0.0)],
)
def test_a_configuration_that_cannot_work_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        PeopleConfig(**{field: value})
