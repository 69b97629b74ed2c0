"""Chances and entropies on their way between trainer and experts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from preceptor_clients.contract.schemas import PrefixQuery, PrefixSubmission
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.targets.token_weights import Certainty
from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import ExpertUse, Labeller
from preceptor_trainer.collect.rollouts import Attempt, Rollout
from preceptor_trainer.tasks.task import NOT_JUDGED

MASK = [True, False, True]
CHANCES = [0.5, 0.5, 0.25]


@dataclass
class SamplingGateway:
    """Two draws at two of three positions, for the expert `api`; all positions for others."""

    queries: dict[str, PrefixQuery] = field(default_factory=dict[str, PrefixQuery])

    async def logprobs(
        self, name: str, submissions: Sequence[PrefixSubmission], **options: object
    ) -> list[SimpleNamespace]:
        [submission] = submissions
        self.queries[name] = query = submission.query
        sampled = {"mask_P": np.array(MASK), "inclusion_P": np.array(CHANCES, np.float32)}
        answer = build_answer(
            query,
            Distributions(
                ids_PK=np.array([[1, 2]] * 3),
                logprobs_PK=np.log([[0.5, 0.5]] * 3),
                own_logprobs_P=None,
            ),
            expert=name,
            expert_version="1",
            **(sampled if name == "api" else {}),
        )
        return [SimpleNamespace(answer=answer, problem=None, ticket=SimpleNamespace(answer_id="a"))]


def attempt() -> Attempt:
    problem = SimpleNamespace(id="p", messages=({"role": "user", "content": "Hi"},), payload={})
    rollout = Rollout(
        rollout_id="r",
        group_id="g",
        group=0,
        problem=problem,
        payload_sha256="a" * 64,
        prompt_ids=[7],
        response_ids=np.array([1, 2, 1], np.int32),
        response_text="",
        behaviour_logprobs=np.zeros(3, np.float32),
        owned=np.ones(3, np.bool_),
        finish_reason="stop",
        step=0,
        weights="run/l0/0",
        entropy_T=np.array([0.1, 0.2, 0.3], np.float32),
    )
    return Attempt(rollout=rollout, items=(), task=NOT_JUDGED)


def labeller(gateway: SamplingGateway, *experts: ExpertUse) -> Labeller:
    return Labeller(
        gateway=gateway,  # type: ignore[arg-type]
        run="run",
        task=NOT_JUDGED,
        experts=experts,
        context=NothingInView(),
        vocab_fingerprint="a" * 64,
        batching="group",
    )


async def test_chances_reach_the_trainer_and_are_of_any_expert_having_been_asked():
    api = ExpertUse(name="api", kind="empirical", needs_feedback=False)
    other = ExpertUse(name="other", needs_feedback=False)

    [alone] = await labeller(SamplingGateway(), api).targets([attempt()])
    [both] = await labeller(SamplingGateway(), api, other).targets([attempt()])
    [without] = await labeller(SamplingGateway(), other).targets([attempt()])

    assert alone.target is not None
    assert alone.target.labelled_T().tolist() == MASK
    np.testing.assert_allclose(alone.inclusion_T, CHANCES)
    np.testing.assert_allclose(both.inclusion_T, 1.0)
    assert without.inclusion_T is None


async def test_no_question_is_asked_before_the_gateway_knows_the_version_that_it_names():
    gateway, came = SamplingGateway(), asyncio.Event()
    asking, awaited = labeller(gateway, ExpertUse(name="api", needs_feedback=False)), list[str]()

    async def known(version: str) -> None:
        awaited.append(version)
        await came.wait()

    asking.known = known
    asked = asyncio.create_task(asking.targets([attempt()]))
    while not awaited:
        await asyncio.sleep(0)

    assert (awaited, gateway.queries) == (["run/l0/0"], {})
    came.set()
    await asked
    assert gateway.queries["api"].weights.version == "run/l0/0"


async def test_entropies_go_to_the_experts_that_want_them():
    gateway = SamplingGateway()
    experts = (
        ExpertUse(name="api", needs_feedback=False, wants_entropy=True),
        ExpertUse(name="other", needs_feedback=False),
    )

    await labeller(gateway, *experts).targets([attempt()])

    np.testing.assert_allclose(gateway.queries["api"].entropy_P, [0.1, 0.2, 0.3])
    assert gateway.queries["other"].entropy_P is None


async def test_a_rule_weighs_an_expert_position_by_position():
    unsure = ExpertUse(name="one", needs_feedback=False, weight=2.0, per_token=Certainty())
    plain = ExpertUse(name="two", needs_feedback=False)

    [row] = await labeller(SamplingGateway(), unsure, plain).targets([attempt()])

    assert row.target is not None
    # Two equal ids: an entropy of ln 2, so the weight of 2 is halved.
    for component in row.target.components:
        np.testing.assert_allclose(component.weight_T, 0.5, atol=1e-3)
