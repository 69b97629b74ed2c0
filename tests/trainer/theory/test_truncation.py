"""The truncated forms are what the trainer's objectives compute, and do what the page says."""

from dataclasses import replace

import numpy as np
import pytest

from preceptor_clients.targets.builder import Target
from preceptor_trainer.model.batch import TrainRollout
from preceptor_trainer.objectives.divergences import Divergence
from preceptor_trainer.objectives.sdpo import SDPO
from preceptor_trainer.theory import truncation
from preceptor_trainer.theory.enumerated import softmax
from preceptor_trainer.theory.enumeration import (
    Floats,
    TinyWorld,
    expected_gradient,
    finite_differences,
    log_softmax,
    table_target,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_IDS, K = 12, 4


@pytest.fixture
def position() -> tuple[Floats, Floats]:
    """A student's logits and a teacher over a few ids, as they travel."""
    logits, teacher = np.random.default_rng(3).normal(size=(2, NUM_IDS))
    return logits, softmax(teacher).astype(np.float32).astype(np.float64)


def rollout(logits: Floats, q: Floats) -> TrainRollout:
    """One position whose expert has answered with its own ids and scored the student's."""
    world = TinyWorld(num_tokens=NUM_IDS, horizon=1)
    target = table_target(world, "r", (0,), q[None], K)
    asked = np.argsort(-logits)[None, :K].astype(np.int32)
    component = replace(
        target.components[0],
        candidate_logprobs_TC=np.log(q[asked]).astype(np.float32),
        candidate_mask_TC=np.ones_like(asked, np.bool_),
    )
    target = Target(rollout_id="r", components=(component,), candidate_ids_TC=asked)
    return TrainRollout(rollout_id="r", group=0, prompt_ids=[0], response_ids=(0,), target=target)


@pytest.mark.parametrize("rest", ["tail", "renormalised"])
@pytest.mark.parametrize("whose", truncation.WHOSE)
def test_form_is_what_the_trainers_divergence_computes(position, whose, rest):
    logits, q = position
    divergence = Divergence(
        alpha=0,
        support="expert" if whose == "expert's" else "student",
        num_ids=K,
        rest="tail" if rest == "tail" else "renormalise",
    )

    own = expected_gradient(
        SDPO(divergence=divergence), logits[None], [[rollout(logits, q)]], np.ones(1)
    )

    pi = softmax(logits)[None]
    chosen = truncation.support(whose, pi, q, K)
    np.testing.assert_allclose(own, truncation.gradient(pi, q, chosen, rest), atol=1e-6)


def test_dropped_form_is_the_gradient_of_the_sum_over_the_ids(position):
    logits, q = position
    chosen = truncation.support("expert's", q[None], q, K)

    slopes = finite_differences(lambda z: -float((q * log_softmax(z))[chosen[0]].sum()), logits)

    found = truncation.gradient(softmax(logits)[None], q, chosen, "dropped")
    np.testing.assert_allclose(found[0], slopes, atol=1e-8)


def test_dropped_form_rests_where_every_other_token_is_unlearnt(position):
    _, q = position
    chosen = truncation.support("expert's", q[None], q, K)
    rest = np.where(chosen, q, 0) / q[chosen[0]].sum()

    np.testing.assert_allclose(truncation.gradient(rest, q, chosen, "dropped"), 0, atol=1e-12)
    assert np.abs(truncation.gradient(q[None], q, chosen, "dropped")).max() > 0.01


@pytest.mark.parametrize(
    ("form", "cosines"),
    [
        ("expert's {} ids, tail", (0.53, 0.84, 0.99)),
        ("expert's {} ids, renormalised", (0.27, 0.64, 0.86)),
        ("expert's {} ids, dropped", (0.47, 0.72, 0.96)),
        ("student's {} ids, tail", (0.65, 0.76, 0.89)),
    ],
)
def test_cosines_are_near_those_of_another_teacher_of_this_entropy(found, form, cosines):
    # the made teacher and students were chosen to come near these: no second measurement
    numbers = found["truncation"].numbers

    for k, other in zip(truncation.SIZES, cosines, strict=True):
        assert numbers[f"flat, {form.format(k)}: cosine"] == pytest.approx(other, abs=0.07)


def test_tail_of_the_experts_ids_is_nearest_to_the_full_gradient_from_20_ids_on(found):
    numbers = found["truncation"].numbers

    for k in (20, 100):
        per_form = {
            (whose, rest): numbers[f"flat, {whose} {k} ids, {rest}: cosine"]
            for whose in truncation.WHOSE
            for rest in truncation.RESTS
        }
        assert max(per_form, key=per_form.__getitem__) == ("expert's", "tail")


def test_distil_takes_the_experts_ids_and_the_tail(found):
    numbers = found["truncation"].numbers

    own = numbers["flat, expert's 20 ids, the trainer's DistIL: cosine"]
    assert own == pytest.approx(numbers["flat, expert's 20 ids, tail: cosine"], abs=1e-5)


def test_fits_end_nearer_with_a_tail_and_dropping_ends_farther_than_it_began(found):
    numbers = found["truncation"].numbers

    def end(whose: str, rest: str) -> float:
        return numbers[f"flat, fitted on {whose} 20 ids, {rest}: total variation"]

    start = numbers["flat, before fitting: total variation"]
    assert end("expert's", "tail") == pytest.approx(0.27, abs=0.04)
    assert end("student's", "tail") == pytest.approx(0.34, abs=0.04)
    assert end("expert's", "tail") < end("student's", "tail") < start
    assert start < end("expert's", "dropped") < end("student's", "dropped")


def test_only_the_tail_of_the_experts_ids_ends_at_its_mass(found):
    numbers = found["truncation"].numbers

    def mass(form: str) -> float:
        return numbers[f"flat, fitted on {form}: student's mass on them"]

    teachers = numbers["flat teacher: mass of its top 20"]
    assert mass("expert's 20 ids, tail") == pytest.approx(teachers, abs=1e-4)
    assert mass("expert's 20 ids, renormalised") < 0.5 * teachers
    assert mass("expert's 20 ids, dropped") > 0.98


def test_students_ids_are_blind_to_a_favourite_that_it_does_not_know(found):
    numbers = found["truncation"].numbers
    pull = "ids, tail: pull on the unknown favourite"

    assert numbers[f"peaked, expert's 5 {pull}"] == pytest.approx(0.168, abs=1e-3)
    assert numbers["peaked, expert's 5 ids, tail: cosine"] == pytest.approx(1, abs=1e-3)
    for k in truncation.SIZES:
        assert 0 < numbers[f"peaked, student's {k} {pull}"] < 2e-5
        cosine = numbers[f"peaked, student's {k} ids, tail: cosine"]
        assert cosine == pytest.approx(0.628, abs=0.05)


def test_truncation_makes_a_lost_teacher_cheap(found):
    numbers = found["truncation"].numbers

    def gap(form: str) -> float:
        return numbers[f"flat, matched, {form}: cost"] - numbers[f"peaked, matched, {form}: cost"]

    assert gap("expert's 20 ids, dropped") < gap("expert's 20 ids, tail") < 0.5 * gap("all ids")
