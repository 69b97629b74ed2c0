"""Objectives: student statistics and targets in, one scalar and metrics out.

| file | what | source |
|---|---|---|
| `distil.py` | forward cross-entropy to experts with the sequence-level gradient | 2606.05152 |
| `sdpo.py` | a divergence to the self-teacher per token, or its sampled-token form | 2601.20802 |
| `opsd.py` | generalised JSD, bounded at every token of the vocabulary | 2601.18734 |
| `gkd.py` | generalised JSD on sampled and given responses | 2306.13649 |
| `on_policy_distillation.py` | reverse KL to a teacher, estimated at the sampled token | |
| `sft.py` | imitation of given responses, hard or soft | 1503.02531 |
| `grpo.py` | rewards against those of siblings; DAPO's form | 2402.03300, 2503.14476 |
| `trrd.py` | RLAD: GRPO whose trust region is anchored at policy and teacher | 2602.22495 |
| `kdrl.py` | GRPO plus the k2 form of reverse KL to a teacher | 2506.02208 |
| `hybrid.py` | `lambda * A_GRPO + (1 - lambda) * A_SDPO` | 2601.20802 |

Shared parts: `token_objective.py` (sums of token losses), `divergences.py` (supports and
divergences), `sampled_tokens.py` (log-probs of the sampled token), `group_rewards.py`,
`clipping.py`, `importance.py`, `checks.py` (requirements on a run), `metrics.py`.

An objective is a frozen dataclass that is called; its fields are its switches. A recipe imports the
class it needs; nothing is looked up by name. It checks the run's configuration when the run is
built. One optimiser step makes three calls:

    advantages = objective.advantages(statistics, batches)      # data, from all rows of the step
    denominator = objective.denominator(batches)                # once, over all rows of the step
    loss, metrics = objective(stats, batch, advantages[i], denominator)      # with gradient
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.statistics import Needs, Reads, StudentStatistics
from preceptor_trainer.objectives.metrics import Mean


class Sampling(Protocol):
    """The sampling settings that an objective checks."""

    @property
    def temperature(self) -> float:
        """1 samples the policy itself."""
        ...

    @property
    def top_p(self) -> float | None:
        """None or 1 is off."""
        ...

    @property
    def top_k(self) -> int | None:
        """None, 0 or negative is off."""
        ...


class Expert(Protocol):
    """The declared abilities of an expert."""

    @property
    def name(self) -> str:
        """Its name at the gateway."""
        ...

    @property
    def kind(self) -> str:
        """One of `batch.KINDS`: `topk`, or `empirical` for samples, `point` for one token."""
        ...

    @property
    def own_logprobs(self) -> bool:
        """Whether it returns the log-prob of the student's own token."""
        ...

    @property
    def scores_candidates(self) -> bool:
        """Whether it scores candidate ids."""
        ...


class Source(Protocol):
    """The source of rollouts."""

    @property
    def given_share(self) -> float:
        """Share of each group that is given and not sampled."""
        ...


class PlannedRun(Protocol):
    """The settings of a run that an objective checks; `RunConfig` has them."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def experts(self) -> Sequence[Expert]: ...
    @property
    def sources(self) -> Sequence[str]: ...
    @property
    def rollout_source(self) -> Source: ...
    @property
    def rollouts_per_problem(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """Results of the pass without gradient, as data for the pass with gradient."""

    advantage_BT: Tensor
    """Weight of the score term; 0 where a token has none."""
    old_logprobs_BT: Tensor
    """Log-probs of the sampled tokens that ratios are taken against."""


class Objective(Protocol):
    """The interface of objectives. Implementations are pure: no state, no model, no optimiser."""

    @property
    def needs(self) -> Needs:
        """The student statistics to compute, and the number of candidate ids of expert queries."""
        ...

    def reads(self, batch: TrainBatch) -> Reads:
        """Which statistics the loss of one token of these rows is computed from.

        By way of its advantage too.

        `own` and `later` need the loss to be a sum over tokens. They let a head that holds only
        some logits at a time take their gradient at once; `all` makes it compute them twice.
        """
        ...

    def check(self, plan: PlannedRun) -> None:
        """Refuse a run in which this objective cannot work, or would be a different objective.

        Raises:
            ValueError: with the field, its value and the remedy.
        """
        ...

    def advantages(
        self, statistics: Sequence[StudentStatistics], batches: Sequence[TrainBatch]
    ) -> list[Advantages]:
        """Weights of the score term, from all rows of the step together."""
        ...

    def denominator(self, batches: Sequence[TrainBatch]) -> float:
        """The number by which the step's loss is divided."""
        ...

    def token_losses(
        self, stats: StudentStatistics, batch: TrainBatch, advantages: Advantages
    ) -> Tensor:
        """[B, T] loss of every token, undivided; exactly 0 where a token has none."""
        ...

    def __call__(
        self,
        stats: StudentStatistics,
        batch: TrainBatch,
        advantages: Advantages,
        denominator: float,
    ) -> tuple[Tensor, dict[str, Mean]]:
        """The batch's share of the step's loss, and sums and counts to report."""
        ...


@runtime_checkable
class NamesSilent(Protocol):
    """An objective that knows before the pass which rollouts have no gradient; an optional ability.

    They are computed without one, for a third of the time and without activations in memory.
    """

    def silent(self, batches: Sequence[TrainBatch]) -> list[Tensor]:
        """[B] bool for each batch of a step: rollouts whose gradient is 0 for every policy."""
        ...


@runtime_checkable
class WeighsGains(Protocol):
    """An objective that says whether its advantages are gains; an optional ability.

    A gain above 0 makes a token more likely. Without this they are costs, as the weights of
    log-probs in a loss are. Records and reports have one sign for both.
    """

    @property
    def weighs_gains(self) -> bool: ...


def weighs_gains(objective: Objective) -> bool:
    """Whether the objective's advantages are gains; else they are costs."""
    return isinstance(objective, WeighsGains) and objective.weighs_gains


def silent_in(objective: Objective, batches: Sequence[TrainBatch]) -> list[Tensor]:
    """[B] bool for each batch: what the objective names as silent; else none."""
    if isinstance(objective, NamesSilent):
        return objective.silent(batches)
    return [torch.zeros_like(batch.on_policy_B) for batch in batches]
