"""One optimiser step. With `moments.py` the only module that touches the optimiser.

    learner = Learner(model, OptimiserConfig(lr=2e-4, warmup_steps=5))
    result = learner.step(make_batches(rollouts, token_budget=8192), DistIL())

A step is: one denominator and, where groups are split over batches, costs-to-go from a pass without
gradient (`shares.py`); then batch by batch loss and backward; clip; step.

The learner does not change train/eval mode. Policies must not use dropout, which would make the two
passes differ; that of an adapter is the learner's own, and drops the same in both.

Dimensions: B rollouts of a batch, T response positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from preceptor_clients.contract.arrays import MISSING
from preceptor_trainer.kit.placement import CPU, Placement
from preceptor_trainer.learner.lora import Adapter, AdapterFiles, check_merged
from preceptor_trainer.learner.moments import HostAdamW, Moments, RoundedAdamW
from preceptor_trainer.learner.passes import Passes
from preceptor_trainer.learner.shares import Share, check_silent, shares_of
from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.credit import cross_entropy
from preceptor_trainer.model.heads.by_size import head_by_size
from preceptor_trainer.model.heads.head import Head, at_least_float32
from preceptor_trainer.model.statistics import StudentStatistics
from preceptor_trainer.model.trunk import Trunk, padded
from preceptor_trainer.model.weights import load_weights, weights_of, whole
from preceptor_trainer.objectives import Advantages, Objective
from preceptor_trainer.objectives.metrics import Mean

_OF_CLIPPING: Final = 1e-6
"""What torch adds to the norm before it divides by it."""
_MANY: Final = 1 << 23
"""Parameters from which the optimiser's passes over them count."""


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with linear warm-up, then a constant or linearly falling rate."""

    lr: float
    """Learning rate after warm-up."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; norms and biases have none."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the moment estimates; a short second memory suits runs of a few hundred steps."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this global norm; None disables clipping."""
    warmup_steps: int = 0
    """Steps until the full learning rate."""
    decay_until: int | None = None
    """After the warm-up the rate falls linearly, to zero at this step; None keeps it."""
    moments: Moments = "float32"
    """Data type of the moments; or `host`, float32 in main memory, where steps are then taken."""

    def __post_init__(self) -> None:
        if self.moments not in get_args(Moments):
            raise ValueError(
                f"moments: {self.moments!r} is not one of {', '.join(get_args(Moments))}"
            )
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, not {self.weight_decay}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, not {self.max_grad_norm}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, not {self.warmup_steps}")
        if self.decay_until is not None and self.decay_until <= self.warmup_steps:
            raise ValueError(
                f"decay_until={self.decay_until} is not after the warm-up of "
                f"{self.warmup_steps} steps"
            )

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        # Counted from 1: with rate 0 the first step would not use its rollouts.
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        if self.decay_until is None:
            return self.lr * warm
        left = (self.decay_until - step) / (self.decay_until - self.warmup_steps)
        return self.lr * min(warm, max(left, 0.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class RolloutCredit:
    """Costs and credit of one rollout in one step, over its `T` tokens, for provenance and
    pictures."""

    rollout_id: str
    cost_T: NDArray[np.float32]
    """Cross-entropy to the target in nats; `MISSING` where unlabelled."""
    advantage_T: NDArray[np.float32]
    """Future cost credited to the token, after the baseline; 0 without a score term."""
    old_logprob_T: NDArray[np.float32]
    """The student's log-prob of its own token before the step."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of one optimiser step."""

    loss: float
    metrics: dict[str, float]
    """Means over the step; a metric without values is absent."""
    grad_norm: float
    """Before clipping."""
    lr: float
    skipped: bool
    """True when a gradient was not finite and the weights were not changed."""
    credits: tuple[RolloutCredit, ...] = ()
    """One per rollout of the step."""


class Learner:
    """Owns the optimiser of one model."""

    def __init__(
        self,
        model: nn.Module,
        config: OptimiserConfig,
        *,
        trunk: Trunk = padded,
        head: Head = head_by_size,
        place: Placement = CPU,
        adapter: Adapter | None = None,
    ) -> None:
        """Takes the model.

        Args:
            model: Changed in place by every step.
            config: Of the optimiser, which owns all parameters with a gradient.
            trunk: From a batch to hidden states.
            head: From hidden states to a loss.
            place: Device and data type of the passes.
            adapter: The adapter of `model`, where it has one.
        """
        self.model = model
        self.config = config
        self.num_steps = 0
        self.num_skipped = 0
        self._adapter = adapter
        self._passes = self._arranged(Passes(model, trunk, head, place, adapter))
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._on_host = config.moments == "host" and self._parameters[0].device.type != "cpu"
        self._fused = True if self._on_host or _takes_one_pass(self._parameters) else None
        self._optimiser = self._new_optimiser()

    def step(self, batches: Sequence[TrainBatch], objective: Objective) -> StepResult:
        """Take one optimiser step on all batches together.

        Raises:
            ValueError: no batches, or targets that the objective refuses.
        """
        if not batches:
            raise ValueError("batches is empty")
        device = self._parameters[0].device
        batches = [batch.to(device) for batch in batches]
        # Gradients of an earlier backward pass must not count in this step.
        self._optimiser.zero_grad(set_to_none=True)
        loss, metrics, credits = self._accumulate(batches, objective)
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        grad_norm = whole(total)
        lr = self._set_lr()
        # One NaN would stay in the moment estimates, and so in every later step.
        skipped = not bool(torch.isfinite(grad_norm))
        if skipped:
            self.num_skipped += 1
        else:
            clip(self._parameters, self.config.max_grad_norm, total)
            cast(Any, self._optimiser).step()
        self._optimiser.zero_grad(set_to_none=True)
        # A skipped step counts: warm-up and decay follow all steps of the run.
        self.num_steps += 1
        means = {name: value for name, m in metrics.items() if (value := m.value()) is not None}
        return StepResult(
            loss=float(loss),
            metrics=means,
            grad_norm=float(grad_norm),
            lr=lr,
            skipped=skipped,
            credits=tuple(credits),
        )

    @torch.no_grad()
    def measure(self, batches: Sequence[TrainBatch], objective: Objective) -> StepResult:
        """The loss, its parts and the credits of a step that is not taken.

        Raises:
            ValueError: no batches, or targets that the objective refuses.
        """
        if not batches:
            raise ValueError("batches is empty")
        device = self._parameters[0].device
        batches = [batch.to(device) for batch in batches]
        statistics = self._statistics(objective, None, batches)
        advantages = objective.advantages(statistics, batches)
        denominator = objective.denominator(batches)
        loss, metrics, credits = 0.0, dict[str, Mean](), list[RolloutCredit]()
        for batch, stats, weights in zip(batches, statistics, advantages, strict=True):
            share, reported = objective(stats, batch, weights, denominator)
            loss += float(share)
            for name, mean in reported.items():
                metrics[name] = metrics[name] + mean if name in metrics else mean
            credits += _credits(batch, stats, weights)
        return StepResult(
            loss=loss,
            metrics={name: v for name, m in metrics.items() if (v := m.value()) is not None},
            grad_norm=0.0,
            lr=self.config.rate_at(self.num_steps),
            skipped=True,
            credits=tuple(credits),
        )

    def state_dict(self) -> dict[str, Any]:
        """Optimiser moments, counters and an adapter; the weights are saved by their owner."""
        return {
            "optimiser": self._optimiser.state_dict(),
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
            **({} if self._adapter is None else {"adapter": self._adapter.own(self._named())}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; the schedule follows from the step count."""
        self._load_optimiser(state)
        if self._adapter is not None:
            mismatch: Any = self.model.load_state_dict(state["adapter"], strict=False)
            if mismatch.unexpected_keys:
                raise ValueError(f"adapter: the model has no {mismatch.unexpected_keys[:3]}")

    def _load_optimiser(self, state: dict[str, Any]) -> None:
        # Not as the state's learner computed, which may have had another device, or ranks: fused,
        # torch counts the steps on the parameter's device, where a loop would wait for each count.
        groups = [{**group, "fused": self._fused} for group in state["optimiser"]["param_groups"]]
        self._optimiser.load_state_dict({**state["optimiser"], "param_groups": groups})
        self.num_steps = int(state["num_steps"])
        self.num_skipped = int(state["num_skipped"])

    def weights(self) -> dict[str, Tensor]:
        """A copy of the policy's weights, with an adapter merged into them."""
        if self._adapter is None:
            return weights_of(self.model)
        return self._adapter.merged(weights_of(self.model))

    def adapter(self) -> AdapterFiles | None:
        """A copy of the adapter, where there is one that its files can describe."""
        return None if self._adapter is None else self._adapter.as_files(self._named())

    def restore(self, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Continue with the weights and the state of one moment.

        Raises:
            ValueError: they do not belong together, or to this model.
        """
        if ("adapter" in state) != (self._adapter is not None):
            raise ValueError("lora: a run goes on with an adapter as it was begun")
        if self._adapter is None:
            load_weights(self.model, weights)
            self.load_state_dict(state)
            return
        self.load_state_dict(state)
        check_merged(self.weights(), weights)

    def close(self) -> None:
        """Nothing was started."""

    def _new_optimiser(self) -> torch.optim.Optimizer | HostAdamW:
        config = self.config
        groups = _decay_groups(self._parameters, config.weight_decay)
        settings: Any = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
        if config.moments == "bfloat16":
            return RoundedAdamW(groups, **settings)
        if self._on_host:
            return HostAdamW(groups, **settings)
        return torch.optim.AdamW(groups, **settings, fused=self._fused)

    def _named(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def _accumulate(
        self, batches: Sequence[TrainBatch], objective: Objective
    ) -> tuple[Tensor, dict[str, Mean], list[RolloutCredit]]:
        """Leave the step's gradient in the parameters."""
        # Made before the first backward pass, from all batches.
        dtype = at_least_float32(self._parameters[0].dtype)
        statistics = partial(self._statistics, objective, self.num_steps)
        return self._passed(shares_of(batches, objective, statistics, dtype))

    def _passed(
        self, shares: Sequence[Share | None]
    ) -> tuple[Tensor, dict[str, Mean], list[RolloutCredit]]:
        """Forward and backward pass of each share; of nothing where there is none."""
        loss = torch.zeros((), device=self._parameters[0].device)
        metrics, credits = dict[str, Mean](), list[RolloutCredit]()
        for share in shares:
            if share is None:
                cast(Any, self._passes.nothing()).backward()
                continue
            batch = share.batch
            with torch.set_grad_enabled(not share.is_silent):
                result = self._passes.loss(share, self.num_steps)
            # Batch by batch, so that only one batch has activations in memory; gradients add up in
            # the parameters.
            if share.is_silent:
                check_silent(share, result.stats)
            else:
                cast(Any, result.loss).backward()
            # Detached, or the sum would keep the graphs of all batches.
            loss = loss + result.loss.detach()
            advantages, reported = result.extra
            for name, mean in reported.items():
                # Sums and counts, because the mean of the batches' means is wrong for batches of
                # different sizes.
                metrics[name] = metrics[name] + mean if name in metrics else mean
            credits += _credits(batch, result.stats, advantages)
        if all(share is not None and share.is_silent for share in shares):
            # A gradient of 0, with which momentum still moves the weights.
            cast(Any, self._passes.nothing()).backward()
        return loss, metrics, credits

    def _statistics(
        self, objective: Objective, step: int | None, batches: Sequence[TrainBatch]
    ) -> list[StudentStatistics]:
        return [self._passes.statistics(batch, objective.needs, step) for batch in batches]

    def _arranged(self, passes: Passes) -> Passes:
        """The passes with their weights where the optimiser will find them."""
        return passes

    def _set_lr(self) -> float:
        rate = self.config.rate_at(self.num_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        return rate


def _credits(
    batch: TrainBatch, stats: StudentStatistics, advantages: Advantages
) -> list[RolloutCredit]:
    # Not 0 where no expert has an opinion: that would mean perfect agreement.
    cost_BT = torch.full_like(advantages.advantage_BT, MISSING)
    if stats.target_logprobs_BTEK is not None:
        cost_BT = torch.where(batch.labelled_BT, cross_entropy(stats, batch.targets), cost_BT)
    rows = [
        tensor_BT.float().cpu().numpy()
        for tensor_BT in (cost_BT, advantages.advantage_BT, advantages.old_logprobs_BT)
    ]
    lengths = [int(length) for length in batch.response_mask_BT.sum(-1)]
    return [
        RolloutCredit(
            rollout_id=name, cost_T=cost[:T], advantage_T=advantage[:T], old_logprob_T=old[:T]
        )
        for name, T, cost, advantage, old in zip(batch.rollout_ids, lengths, *rows, strict=True)
    ]


def clip(parameters: Sequence[nn.Parameter], bound: float | None, total: Tensor) -> None:
    """Scales gradients down to a global norm, where theirs is larger.

    Args:
        parameters: Those with gradients.
        bound: The norm; None changes nothing.
        total: The norm of their gradients, as `get_total_norm` gives it, finite.
    """
    # torch's function would multiply all gradients by 1 too: one more pass over them.
    if bound is not None and bool(bound / (whole(total) + _OF_CLIPPING) < 1.0):
        nn.utils.clip_grads_with_norm_(parameters, bound, total)


def _takes_one_pass(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the optimiser reads and writes each of them once, by torch's fused kernel.

    Its loop of single operations takes several passes and a copy of each parameter.
    Small models keep the loop, which rounds differently: there the difference is milliseconds.
    """
    plain = all(p.device.type == "cpu" and not isinstance(p, DTensor) for p in parameters)
    return plain and sum(p.numel() for p in parameters) >= _MANY


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    # Decay bounds products of weights. Gains of norms and biases form no such products; decay would
    # only scale their outputs down.
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
