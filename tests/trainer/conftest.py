"""Small rollouts and targets, written out by hand."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from preceptor_clients.contract.schemas import AnswerKind
from preceptor_clients.targets.builder import Target, TargetComponent
from preceptor_trainer.model.batch import TrainRollout
from preceptor_trainer.theory.enumeration import PrefixTable, TinyWorld

MakeComponent = Callable[..., TargetComponent]
MakeRollout = Callable[..., TrainRollout]


def _component(
    ids_TK: ArrayLike,
    probs_TK: ArrayLike,
    *,
    weight_T: ArrayLike | None = None,
    kind: AnswerKind = "topk",
    num_candidates: int = 0,
) -> TargetComponent:
    ids, probs = np.array(ids_TK, np.int32), np.array(probs_TK, np.float32)
    length = len(ids)
    tail = np.where((ids >= 0).any(1), 1 - probs.sum(1), 0).clip(min=0)
    return TargetComponent(
        answer_id="answer",
        expert="expert",
        kind=kind,
        ids_TK=ids,
        probs_TK=probs,
        tail_T=tail.astype(np.float32),
        weight_T=np.ones(length, np.float32)
        if weight_T is None
        else np.array(weight_T, np.float32),
        own_logprobs_T=np.full(length, -1.0, np.float32),
        own_mask_T=np.ones(length, np.bool_),
        candidate_logprobs_TC=np.full((length, num_candidates), -2.0, np.float32),
        candidate_mask_TC=np.ones((length, num_candidates), np.bool_),
    )


def _rollout(
    rollout_id: str = "r",
    response_ids: Sequence[int] = (0, 1),
    components: Sequence[TargetComponent] = (),
    *,
    group: int = 0,
    prompt_ids: Sequence[int] = (0,),
    candidate_ids_TC: ArrayLike | None = None,
    owned: Sequence[bool] | None = None,
    **fields: Any,
) -> TrainRollout:
    """A rollout; without components it has no teacher."""
    candidates = np.zeros((len(response_ids), 0)) if candidate_ids_TC is None else candidate_ids_TC
    target = Target(
        rollout_id=rollout_id,
        components=tuple(components),
        candidate_ids_TC=np.array(candidates, np.int32),
    )
    return TrainRollout(
        rollout_id=rollout_id,
        group=group,
        prompt_ids=list(prompt_ids),
        response_ids=list(response_ids),
        owned=None if owned is None else np.array(owned, np.bool_),
        target=target if components else None,
        **fields,
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On tensors this small, threads only wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def make_component() -> MakeComponent:
    return _component


@pytest.fixture
def make_rollout() -> MakeRollout:
    return _rollout


@pytest.fixture
def world() -> TinyWorld:
    """Three tokens, four positions."""
    return TinyWorld()


@pytest.fixture
def make_labelled(world: TinyWorld) -> MakeRollout:
    """A rollout of the tiny world with a dense random target; the seed picks its numbers."""

    def make(
        rollout_id: str = "r",
        response_ids: Sequence[int] = (0, 1, 2, 0),
        *,
        seed: int = 0,
        weight_T: ArrayLike | None = None,
        **fields: Any,
    ) -> TrainRollout:
        rng = np.random.default_rng(seed)
        length = len(response_ids)
        probs_TV = rng.dirichlet(np.ones(world.num_tokens), length)
        component = _component(
            np.tile(np.arange(world.num_tokens), (length, 1)), probs_TV, weight_T=weight_T
        )
        return _rollout(rollout_id, response_ids, [component], **fields)

    return make


@pytest.fixture
def policy(world: TinyWorld) -> PrefixTable:
    """A random float64 policy over the tiny world."""
    return PrefixTable(torch.tensor(world.random_logits(0)))
