"""People as an expert: late answers, the take-over at once, revisions, retirement and the trace."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from preceptor_clients.contract.corrections import EditRules, NewItem, RoundSettings, Submission
from preceptor_clients.contract.errors import Conflict, Forbidden
from preceptor_clients.contract.schemas import Message, Prompt
from preceptor_clients.targets.edits import LabelRules
from preceptor_services.corrections.people_expert import PeopleExpert, rules_of, version_of

from .conftest import STUDENT, Town

PROMPT = Prompt(messages=(Message(role="user", content="?"),), ids=np.array([63], np.int32))


async def test_a_question_waits_for_people_and_its_answer_arrives(town: Town) -> None:
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "x[0]+1", rollout_id="r")
    before = (await town.outcome(ticket)).ticket.state

    await town.correct(ann, "x[9]+1")
    await town.people.answer_due()
    await town.people.answer_due()
    after = await town.outcome(ticket)
    arrivals = (await town.trainer.arrivals("demo")).arrivals

    assert before == "waiting"
    assert after.ticket.state == "done"
    assert after.answer.kind == "point"
    assert np.flatnonzero(after.answer.mask_P).tolist() == [2]
    assert after.answer.ids_PK[2].tolist() == [ord("9")]
    assert [a.rollout_id for a in arrivals] == ["r"]


async def test_positions_that_nobody_asked_about_are_not_answered(town: Town) -> None:
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "x[0]+1", positions=((1, 3),))

    await town.correct(ann, "x[9]+1")
    await town.people.answer_due()

    assert (await town.outcome(ticket)).answer.mask_P.tolist() == [False, True]


async def test_an_accepted_response_is_answered_with_no_opinion(town: Town) -> None:
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "x")

    claim = await ann.claim()
    await ann.submit(claim.id, Submission(decision="accept"))
    await town.people.answer_due()

    assert not (await town.outcome(ticket)).answer.mask_P.any()


async def test_the_take_over_is_answered_at_once(town: Town) -> None:
    ann = await town.office.person("ann")
    await town.ask("k", "x[0]+1")
    await town.correct(ann, "x[99]")

    _, ticket = await town.ask("k2", "x[99]")
    outcome = await town.outcome(ticket)

    assert outcome.ticket.state == "done"
    labelled = np.flatnonzero(outcome.answer.mask_P).tolist()
    assert labelled == [2, 3, 4, 5]
    assert outcome.answer.ids_PK[labelled, 0].tolist() == [*b"99]", 257]


@pytest.mark.parametrize(("rejoin_tokens", "labelled"), [(3, [1, 9]), (1000, [1])])
async def test_an_edit_is_compiled_by_the_rules_of_its_round(
    town: Town, rejoin_tokens: int, labelled: list[int]
) -> None:
    rules = EditRules(rejoin_tokens=rejoin_tokens)
    tool = town.office.tool()
    await tool.put_round("demo", RoundSettings(double_share=0.0, edits=rules))
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "a1b2c tail")

    await town.correct(ann, "aXb2c taiY")
    await town.people.answer_due()
    [result] = (await tool.results()).results

    answer = (await town.outcome(ticket)).answer
    assert np.flatnonzero(answer.mask_P).tolist() == labelled
    assert result.edits == rules


async def test_a_rounds_rules_for_edits_stand_once_it_has_items(town: Town) -> None:
    other = RoundSettings(edits=EditRules(rejoin_tokens=9))
    await town.office.tool().put_round("demo", RoundSettings())
    await town.ask("k", "x")

    with pytest.raises(Conflict, match="make another round"):
        await town.office.tool().put_round("demo", other)
    await town.office.tool().put_round("demo", RoundSettings(closed=True))


async def test_a_revision_is_a_new_answer_and_arrives_again(town: Town) -> None:
    ann = await town.office.person("ann")
    eve = await town.office.person("eve", "reviewer")
    _, ticket = await town.ask("k", "x[0]", rollout_id="r")
    item_id = await town.correct(ann, "x[1]")
    await town.people.answer_due()

    revised = Submission(decision="edit", text="x[2]")
    await eve.review(item_id, "approve", submission=revised)
    await town.people.answer_due()
    first, second = (await town.trainer.arrivals("demo")).arrivals
    old, new = await town.outcome(first.ticket), await town.outcome(second.ticket)

    assert first.ticket == ticket
    assert second.rollout_id == "r"
    assert old.ticket.answer_id != new.ticket.answer_id
    assert old.answer.ids_PK[2].tolist() == [ord("1")]
    assert new.answer.ids_PK[2].tolist() == [ord("2")]


async def test_a_target_traces_to_person_edit_and_reviewer_and_is_rebuilt_without_them(
    town: Town,
) -> None:
    ann = await town.office.person("ann")
    eve = await town.office.person("eve", "reviewer")
    await town.record_rollout("r", "x[0]")
    query, ticket = await town.ask("k", "x[0]", rollout_id="r")
    item_id = await town.correct(ann, "x[1]")
    version = (await eve.item(item_id)).versions[0]
    await eve.review(item_id, "approve", version=version.id)
    await town.people.answer_due()
    outcome = await town.outcome(ticket)
    target_id = await town.use("r", "demo", query, [outcome])

    trace = await town.trainer.trace(target_id, 2)
    retirement = await town.office.tool().retire("ann", "misread the guidelines")

    [source] = trace.sources
    [behind] = source.feedback
    assert source.entries == ((ord("1"), 1.0),)
    assert (behind.text, behind.details["person"]) == ("x[1]", "ann")
    assert behind.details["reviewer"] == "eve"
    assert retirement.versions == (version.id,)
    [listed] = retirement.targets
    assert (listed.target_id, listed.consumed_by) == (target_id, ("l0/0",))
    assert listed.rebuilt_as is None
    assert retirement.runs == ("demo",)
    kinds = [r.kind for r in (await town.office.tool("trainer").results()).results]
    assert kinds[-1] == "retired"


async def test_a_target_of_two_people_is_rebuilt_without_the_one_who_retired(town: Town) -> None:
    ann, ben = await town.office.person("ann"), await town.office.person("ben")
    other = Prompt(messages=(Message(role="user", content="!"),), ids=np.array([33], np.int32))
    await town.record_rollout("r", "x[0]")
    query, ticket = await town.ask("a", "x[0]", rollout_id="r")
    await town.correct(ann, "x[1]")
    _, ticket_of_ben = await town.ask("b", "x[0]", prompt=other, rollout_id="s")
    await town.correct(ben, "x[2]")
    await town.people.answer_due()
    outcomes = [await town.outcome(t) for t in (ticket, ticket_of_ben)]
    target_id = await town.use("r", "demo", query, outcomes)

    [listed] = (await town.office.tool().retire("ann", "misread the guidelines")).targets
    rebuilt = await town.trainer.trace(listed.rebuilt_as, 2)
    old = await town.trainer.trace(target_id, 2)

    assert listed.target_id == target_id
    [source] = rebuilt.sources
    assert (source.entries, source.weight) == (((ord("2"), 1.0),), 1.0)
    assert source.feedback[0].details["person"] == "ben"
    assert len(old.sources) == 2


async def test_retiring_lists_and_rebuilds_the_targets_of_every_run_that_shares_an_answer(
    town: Town,
) -> None:
    ann, ben = await town.office.person("ann"), await town.office.person("ben")
    other = Prompt(messages=(Message(role="user", content="!"),), ids=np.array([33], np.int32))
    query, ticket = await town.ask("a", "x[0]", rollout_id="first-r")
    await town.correct(ann, "x[1]")
    _, ticket_of_ben = await town.ask("b", "x[0]", prompt=other)
    await town.correct(ben, "x[2]")
    await town.people.answer_due()
    _, shared = await town.ask("c", "x[0]", run="second", rollout_id="second-r")
    outcomes = [await town.outcome(t) for t in (ticket, shared, ticket_of_ben)]
    made: dict[str, str] = {}
    for run, outcome in (("first", outcomes[0]), ("second", outcomes[1])):
        await town.record_rollout(f"{run}-r", "x[0]", run=run)
        made[run] = await town.use(f"{run}-r", run, query, [outcome, outcomes[2]])

    retirement = await town.office.tool().retire("ann", "misread the guidelines")

    assert outcomes[1].ticket.cached
    assert retirement.runs == ("first", "second")
    listed = {t.run: t for t in retirement.targets}
    assert {run: t.target_id for run, t in listed.items()} == made
    assert all(t.consumed_by == ("l0/0",) for t in retirement.targets)
    for target in retirement.targets:
        [source] = (await town.trainer.trace(target.rebuilt_as, 2)).sources
        assert source.entries == ((ord("2"), 1.0),)


async def test_tokens_are_shown_with_their_place_in_the_text(town: Town) -> None:
    eve = await town.office.person("eve", "reviewer")
    fingerprint = town.people.info().capabilities.vocab_fingerprint
    item = NewItem(
        prompt=PROMPT,
        response_text="é1",
        response_ids=town.ids_of("é1"),
        vocab_fingerprint=fingerprint,
    )
    pieces = [chr(i) if i < 256 else "" for i in range(261)]
    tool = town.office.tool("expert")
    await tool.put_vocabulary(fingerprint or "", pieces)

    [taken] = await town.office.tool("trainer").add_items("r", [item])
    view = await eve.experts(taken.id or "")

    assert [(t.start, t.end) for t in view.tokens] == [(0, 0), (0, 1), (1, 2), (2, 2)]


def test_a_version_names_its_rules() -> None:
    rules = LabelRules(smoothing=0.05, accepted=True)

    assert rules_of(version_of(rules)) == rules
    assert rules_of("edits-2/accepted/7/0.05") == rules
    assert rules_of("edits-0/accepted/1/0.0") is None


async def test_another_experts_key_sees_and_gives_no_answer_of_the_peoples_expert(
    town: Town,
) -> None:
    ann = await town.office.person("ann")
    _, ticket = await town.ask("k", "x[0]+1")
    await town.correct(ann, "x[9]+1")
    keyring = town.office.app.state.keyring
    [digest] = [d for d, c in keyring._callers.items() if c.name == "expert"]
    own = keyring._callers[digest]
    keyring._callers[digest] = own._replace(services=frozenset({"another"}))
    answer_key = (await town.outcome(ticket)).ticket.answer_key

    assert (await town.people._gateway.due()) == ()
    with pytest.raises(Forbidden):
        await town.people._gateway.given({answer_key: None})
    keyring._callers[digest] = own

    await town.people.answer_due()
    assert (await town.outcome(ticket)).ticket.state == "done"


async def test_an_answer_that_cannot_be_made_does_not_hold_up_the_others(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await town.office.person("ann")
    _, bad = await town.ask("k1", "x[0]+1")
    await town.correct(ann, "x[7]+1")
    _, good = await town.ask("k2", "y[0]+1")
    await town.correct(ann, "y[9]+1")
    made = town.people._labels

    def labels(due: Any, *words: Any) -> Any:
        if due.text == "x[7]+1":
            raise ValueError("a fault of ours")
        return made(due, *words)

    monkeypatch.setattr(town.people, "_labels", labels)
    await town.people.answer_due()
    before = [(await town.outcome(t)).ticket.state for t in (bad, good)]
    monkeypatch.undo()
    await town.people.answer_due()

    assert before == ["waiting", "done"]
    assert (await town.outcome(bad)).ticket.state == "done"


async def test_a_fault_that_ended_the_polling_is_raised_when_the_service_stops() -> None:
    class Gateway:
        async def put_vocabulary(self, *words: Any) -> None:
            raise RuntimeError("a fault of ours")

        async def aclose(self) -> None:
            pass

    people = PeopleExpert(model=str(STUDENT), connect=lambda: cast(Any, Gateway()))
    await people.start()
    assert people._task is not None
    await asyncio.wait([people._task])

    with pytest.raises(RuntimeError, match="a fault of ours"):
        await people.stop()
