"""A policy so small that every expectation over its sequences is a finite sum.

A test bed for objectives: free logits for every prefix, all sequences up to a horizon, and the
gradient of the objective as stated, by central differences of its definition. `expected_gradient`
runs an objective as training does (batch, head, advantages, loss) on every sequence, weighted by
its probability; the two must agree.

Dimensions: V tokens, P prefixes, S sequences, T positions, R rows (a group's rollouts, in order).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor_clients.targets.builder import Target, TargetComponent
from preceptor_trainer.model.batch import TrainRollout, collate
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.objectives import Objective

Floats: TypeAlias = NDArray[np.float64]
Tokens: TypeAlias = tuple[int, ...]


class PrefixTable(nn.Module):
    """A causal model whose logits are a free parameter at every prefix of the response.

    Rows must have a prompt of one token, which has no effect. With logits [R, P, V] every row has
    its own table, so that one backward pass gives every row's gradient.
    """

    def __init__(self, logits_PV: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_PV)

    def get_decoder(self) -> Callable[..., SimpleNamespace]:
        """Returns the prefix's logits as the hidden state."""
        return self._look_up

    def get_output_embeddings(self) -> nn.Module:
        """The identity, since hidden states are already logits."""
        return nn.Identity()

    def _look_up(self, *, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        num_tokens, num_prefixes = self.logits.shape[-1], self.logits.shape[-2]
        prefix = torch.zeros_like(input_ids)
        for t in range(1, input_ids.shape[1]):
            prefix[:, t] = prefix[:, t - 1] * num_tokens + input_ids[:, t] + 1
        # The state after the last token predicts nothing, so any entry can be used.
        prefix = prefix.clamp(max=num_prefixes - 1)
        rows = torch.arange(len(prefix))[:, None]
        table = self.logits[prefix] if self.logits.ndim == 2 else self.logits[rows, prefix]
        return SimpleNamespace(last_hidden_state=table)


@dataclass(frozen=True, kw_only=True)
class TinyWorld:
    """All responses over V tokens up to a horizon; an optional stop token ends them."""

    num_tokens: int = 3
    horizon: int = 4
    stop: int | None = None

    @property
    def num_prefixes(self) -> int:
        """Prefixes shorter than the horizon."""
        return sum(self.num_tokens**t for t in range(self.horizon))

    def sequences(self) -> list[Tokens]:
        """Every response once."""
        every = itertools.product(range(self.num_tokens), repeat=self.horizon)
        return list(dict.fromkeys(self._ended(y) for y in every))

    def prefixes(self, sequence: Tokens) -> list[int]:
        """Table index of the prefix before each token."""
        index = [0]
        for token in sequence[:-1]:
            index.append(index[-1] * self.num_tokens + token + 1)
        return index

    def probabilities(self, logits_PV: Floats) -> Floats:
        """[S] probability of every response."""
        logprobs_PV = log_softmax(logits_PV)
        return np.exp([self._logprob(logprobs_PV, y) for y in self.sequences()])

    def random_logits(self, seed: int) -> Floats:
        """[P, V] standard normal."""
        return np.random.default_rng(seed).normal(size=(self.num_prefixes, self.num_tokens))

    def random_teacher(self, seed: int) -> Floats:
        """[P, V] probabilities."""
        return as_teacher(self.random_logits(seed))

    def _ended(self, sequence: Tokens) -> Tokens:
        if self.stop is None or self.stop not in sequence:
            return sequence
        return sequence[: sequence.index(self.stop) + 1]

    def _logprob(self, logprobs_PV: Floats, sequence: Tokens) -> float:
        return float(logprobs_PV[self.prefixes(sequence), sequence].sum())


def log_softmax(logits: Floats) -> Floats:
    """Log-probs over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def as_teacher(logits_PV: Floats) -> Floats:
    """Probabilities, rounded as on the wire so that both sides use the same numbers."""
    return np.exp(log_softmax(logits_PV)).astype(np.float32).astype(np.float64)


def table_target(
    world: TinyWorld, rollout_id: str, sequence: Tokens, teacher_PV: Floats, num_ids: int
) -> Target:
    """The teacher's top `num_ids` tokens at every prefix of a response, and the tail."""
    probs_TV = teacher_PV[world.prefixes(sequence)]
    ids_TK = np.argsort(-probs_TV, axis=1, kind="stable")[:, :num_ids]
    probs_TK = np.take_along_axis(probs_TV, ids_TK, 1)
    length = len(sequence)
    tail_T = (1 - probs_TK.sum(1)) if num_ids < world.num_tokens else np.zeros(length)
    component = TargetComponent(
        answer_id="a",
        expert="table",
        kind="topk",
        ids_TK=ids_TK.astype(np.int32),
        probs_TK=probs_TK.astype(np.float32),
        tail_T=tail_T.astype(np.float32),
        weight_T=np.ones(length, np.float32),
        own_logprobs_T=np.log(probs_TV[np.arange(length), sequence]).astype(np.float32),
        own_mask_T=np.ones(length, np.bool_),
        candidate_logprobs_TC=np.zeros((length, 0), np.float32),
        candidate_mask_TC=np.zeros((length, 0), np.bool_),
    )
    return Target(
        rollout_id=rollout_id,
        components=(component,),
        candidate_ids_TC=np.zeros((length, 0), np.int32),
    )


def expected_gradient(
    objective: Objective,
    logits_PV: Floats,
    groups: Sequence[Sequence[TrainRollout]],
    weights: Floats,
    *,
    rows_per_call: int = 1024,
) -> Floats:
    """Weighted sum over groups of the mean gradient of their rollouts.

    Args:
        objective: run as in training; its denominator is left out.
        logits_PV: the policy.
        groups: every outcome of sampling one group.
        weights: [number of groups] their probabilities.
        rows_per_call: rows of one forward pass; groups stay whole.

    Returns:
        [P, V] gradient.
    """
    policy = PrefixTable(torch.tensor(logits_PV))
    group_size = len(groups[0])
    step = max(1, rows_per_call // group_size)
    for start in range(0, len(groups), step):
        part = groups[start : start + step]
        loss_R = rollout_losses(objective, policy, [r for group in part for r in group])
        weights_R = torch.tensor(weights[start : start + step]).repeat_interleave(group_size)
        torch.autograd.backward((weights_R * loss_R).sum() / group_size)
    assert policy.logits.grad is not None
    return policy.logits.grad.numpy()


def rollout_losses(
    objective: Objective, policy: PrefixTable, rollouts: Sequence[TrainRollout]
) -> Tensor:
    """[R] loss of every rollout, undivided, through the parts that training uses."""
    batch = collate(rollouts)
    stats = student_statistics(policy, batch, objective.needs)
    (advantages,) = objective.advantages([stats], [batch])
    return objective.token_losses(stats, batch, advantages).sum(1)


def finite_differences(function: Callable[[Floats], float], at: Floats) -> Floats:
    """Gradient by central differences."""
    gradient, step = np.zeros_like(at), 1e-5
    for index in np.ndindex(*at.shape):
        above, below = at.copy(), at.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient
