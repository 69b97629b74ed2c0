"""Each batch's share of a step's loss, as a function of the batch's own statistics.

    for share in shares_of(batches, objective, statistics, dtype):
        loss, (advantages, metrics) = share(stats)

What a share needs of other batches is put into it beforehand. A group that lies in one batch needs
nothing. Parts of a split group need each other: the statistics of a pass without gradient where the
objective reads those of other tokens, and otherwise only what the batches themselves hold.

Dimensions: B rollouts of a batch, T response positions.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.heads.head import unknown_statistics
from preceptor_trainer.model.statistics import Reads, StudentStatistics
from preceptor_trainer.objectives import Advantages, Objective, silent_in
from preceptor_trainer.objectives.metrics import Mean

Rule: TypeAlias = Callable[[StudentStatistics], Advantages]
"""From a batch's statistics to its advantages."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """One batch's share of the loss; a `BatchLoss` of heads."""

    objective: Objective
    batch: TrainBatch
    denominator: float
    rule: Rule
    is_silent: bool = False
    """Whether no rollout of the batch has a gradient."""

    @property
    def reads(self) -> Reads:
        """As the objective says."""
        return self.objective.reads(self.batch)

    def __call__(
        self, stats: StudentStatistics
    ) -> tuple[Tensor, tuple[Advantages, dict[str, Mean]]]:
        """The share with gradient; the advantages it was computed with, and metrics."""
        # A head may be called under autocast. Costs and baselines keep the 32 bits of statistics.
        with torch.autocast(stats.sampled_logprobs_BT.device.type, enabled=False):
            advantages = self.rule(stats)
            share, metrics = self.objective(stats, self.batch, advantages, self.denominator)
        return share, (advantages, metrics)


def check_silent(share: Share, stats: StudentStatistics) -> None:
    """Refuses an objective that names rollouts as silent which have a gradient.

    Args:
        share: Of a silent batch.
        stats: Of the batch.

    Raises:
        ValueError: the share's gradient is not 0.
    """
    free = {
        name: value.detach().requires_grad_()
        for name, value in vars(stats).items()
        if isinstance(value, Tensor)
    }
    with torch.enable_grad():
        loss, _ = share(replace(stats, **free))
    if not loss.requires_grad:
        return
    found = torch.autograd.grad(loss, list(free.values()), materialize_grads=True)
    # A gradient that is not a number compares to nothing.
    if any(bool((gradient.abs() > 0).any()) for gradient in found):
        raise ValueError(
            f"silent: {type(share.objective).__name__} names rollouts as silent that have a "
            "gradient; correct its `silent`"
        )


def shares_of(
    batches: Sequence[TrainBatch],
    objective: Objective,
    statistics: Callable[[Sequence[TrainBatch]], Sequence[StudentStatistics]],
    dtype: torch.dtype,
) -> list[Share]:
    """The shares of all batches of one step.

    Args:
        batches: the whole step.
        objective: what is minimised.
        statistics: of the policy before the step; called once, and only for parts of split groups.
        dtype: of statistics.
    """
    # Over all batches: each share is divided by the same number, so the gradient does not depend on
    # how rows were put into batches. A mean in each batch would make a rollout in a small batch
    # weigh more.
    denominator = objective.denominator(batches)
    rules: list[Rule] = [partial(_of_whole_groups, objective, batch) for batch in batches]
    split = _batches_of_split_groups(batches)
    parts = [batches[i] for i in split]
    if all(objective.reads(part) == "own" for part in parts):
        unknown = [unknown_statistics(part, objective.needs, dtype) for part in parts]
        for place, i in enumerate(split):
            rules[i] = partial(_beside_parts, objective, parts, unknown, place)
    elif split:
        with torch.no_grad():
            known = objective.advantages(statistics(parts), parts)
        for i, advantages in zip(split, known, strict=True):
            rules[i] = partial(_already_known, advantages)
    return [
        Share(
            objective=objective,
            batch=batch,
            denominator=denominator,
            rule=rule,
            is_silent=bool(silent_B.all()),
        )
        for batch, rule, silent_B in zip(batches, rules, silent_in(objective, batches), strict=True)
    ]


def _of_whole_groups(
    objective: Objective, batch: TrainBatch, stats: StudentStatistics
) -> Advantages:
    (advantages,) = objective.advantages([stats], [batch])
    return advantages


def _beside_parts(
    objective: Objective,
    parts: Sequence[TrainBatch],
    unknown: Sequence[StudentStatistics],
    place: int,
    stats: StudentStatistics,
) -> Advantages:
    """From rewards of all parts, and statistics of this one only."""
    statistics = [*unknown[:place], stats, *unknown[place + 1 :]]
    return objective.advantages(statistics, parts)[place]


def _already_known(advantages: Advantages, stats: StudentStatistics) -> Advantages:
    return advantages


def _batches_of_split_groups(batches: Sequence[TrainBatch]) -> list[int]:
    """Places of the batches with rows of a group that has rows in another batch too."""
    groups = [{int(group) for group in batch.group_B} for batch in batches]
    num_homes = Counter(group for home in groups for group in home)
    return [i for i, home in enumerate(groups) if any(num_homes[group] > 1 for group in home)]
