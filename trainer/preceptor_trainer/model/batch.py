"""Rollouts and their targets as tensors.

A row is prompt then response, padded on the right. Everything about the response is [B, T] and
starts at its first token, so objectives never see the prompt, and padding is one mask.

    batches = make_batches(rollouts, token_budget=8192)

Dimensions: B rows, L sequence positions, T response positions, E components of a target, K ids of a
component, C candidate ids. Entry t of a response tensor is about response token t given everything
before t. An empty id is -1, an empty probability 0; an unknown log-prob is masked, never 0.0 alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor_clients.targets.builder import Target, TargetComponent
from preceptor_trainer.model.statistics import ABSENT

KINDS = ("topk", "empirical", "point")
"""Kinds of a component; `TargetTensors.kind_BE` holds the place in this tuple, -1 for none."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TrainRollout:
    """One rollout, its target, and their origin."""

    rollout_id: str
    group: int
    """Rollouts of one prompt at one step share a number, and may share a baseline."""
    prompt_ids: Sequence[int]
    """At least one token, which predicts the first response token."""
    response_ids: Sequence[int]
    behaviour_logprobs: NDArray[np.float32] | None = None
    """[T] log-probs under the sampling distribution; NaN where unknown, None where never kept."""
    owned: NDArray[np.bool_] | None = None
    """[T] tokens that the student itself sampled; None means all of them."""
    target: Target | None = None
    """None: this rollout has no teacher."""
    reward: float | None = None
    on_policy: bool = True
    """False for rollouts of an older policy, and for forced and given sequences."""
    given: bool = False
    """True for a given right answer, on which imitation trains."""
    chosen_positions: bool = False
    """True when the labelled positions were chosen by a rule: the future term is then refused."""
    inclusion_probability: NDArray[np.float32] | None = None
    """[T] in (0, 1], where positions were drawn at random; None means all positions."""
    uses: frozenset[str] = frozenset()
    """Rollouts whose text or outcome this rollout's target depends on (its demonstrations)."""

    def __post_init__(self) -> None:
        if not len(self.prompt_ids):
            raise ValueError(f"prompt_ids of rollout {self.rollout_id!r} is empty")
        if not len(self.response_ids):
            raise ValueError(f"response_ids of rollout {self.rollout_id!r} is empty")
        for name in ("behaviour_logprobs", "owned", "inclusion_probability"):
            value = getattr(self, name)
            if value is not None and value.shape != (self.num_tokens,):
                raise ValueError(
                    f"{name} of rollout {self.rollout_id!r} has shape {value.shape}, "
                    f"its response has {self.num_tokens} tokens"
                )
        inclusion = self.inclusion_probability
        if inclusion is not None and not ((inclusion > 0) & (inclusion <= 1)).all():
            raise ValueError(
                f"inclusion_probability of rollout {self.rollout_id!r} not in (0, 1]: {inclusion}"
            )
        if self.target is not None and self.target.rollout_id != self.rollout_id:
            raise ValueError(
                f"target of rollout {self.rollout_id!r} belongs to {self.target.rollout_id!r}"
            )

    @property
    def num_tokens(self) -> int:
        """Length of the response."""
        return len(self.response_ids)


@dataclass(frozen=True, kw_only=True)
class TargetTensors:
    """The experts' opinions; components are kept separate, because the loss is linear in them."""

    kind_BE: Tensor
    ids_BTEK: Tensor
    """Padded ids are -1."""
    probs_BTEK: Tensor
    tail_BTE: Tensor
    weight_BTE: Tensor
    """0 where the expert has no opinion; sums to 1 over E at a labelled position."""
    own_logprobs_BTE: Tensor
    own_mask_BTE: Tensor
    candidate_ids_BTC: Tensor
    candidate_logprobs_BTEC: Tensor
    candidate_mask_BTEC: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """Rows that go through the model in one call."""

    rollout_ids: tuple[str, ...]
    uses: tuple[frozenset[str], ...]
    input_ids_BL: Tensor
    predictor_BT: Tensor
    """Position in the row whose hidden state predicts response token t; 0 in padding."""
    response_ids_BT: Tensor
    response_mask_BT: Tensor
    owned_BT: Tensor
    behaviour_logprobs_BT: Tensor
    behaviour_mask_BT: Tensor
    inclusion_BT: Tensor
    group_B: Tensor
    has_teacher_B: Tensor
    on_policy_B: Tensor
    given_B: Tensor
    chosen_positions_B: Tensor
    reward_B: Tensor
    reward_mask_B: Tensor
    targets: TargetTensors

    @property
    def num_rollouts(self) -> int:
        """B."""
        return len(self.rollout_ids)

    @property
    def labelled_BT(self) -> Tensor:
        """Positions where some expert has an opinion on a token that the student wrote."""
        # Both conditions: a forced token was not the student's decision, and a token without an
        # opinion has no cost, which is not a cost of 0.
        return self.owned_BT & (self.targets.weight_BTE.sum(-1) > 0)

    def to(self, device: torch.device | str) -> "TrainBatch":
        """The batch on another device."""
        return _moved(replace(self, targets=_moved(self.targets, device)), device)


def collate(rollouts: Sequence[TrainRollout]) -> TrainBatch:
    """Pad rollouts into one batch, in the given order.

    Raises:
        ValueError: no rollouts, or arrays of a target that do not fit its response.
    """
    if not rollouts:
        raise ValueError("rollouts is empty")
    shape = (len(rollouts), _longest(rollouts))
    longest = max(len(r.prompt_ids) + r.num_tokens for r in rollouts)
    # Padding may be any id: a causal model does not attend to it on the right.
    input_ids = np.zeros((len(rollouts), longest), np.int64)
    predictor, response_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    response_mask, owned = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    # Costs are divided by the inclusion before they are masked: in padding it is 1 and not 0.
    behaviour, inclusion = np.full(shape, np.nan, np.float32), np.ones(shape, np.float32)
    for b, rollout in enumerate(rollouts):
        start, length = len(rollout.prompt_ids), rollout.num_tokens
        input_ids[b, :start] = rollout.prompt_ids
        input_ids[b, start : start + length] = rollout.response_ids
        # The hidden state at a place predicts the next token: that of response token 0 is at the
        # last place of the prompt. In padding it is 0, a place that every row has.
        predictor[b, :length] = np.arange(start - 1, start + length - 1)
        response_ids[b, :length] = rollout.response_ids
        response_mask[b, :length] = True
        owned[b, :length] = True if rollout.owned is None else rollout.owned
        if rollout.behaviour_logprobs is not None:
            behaviour[b, :length] = rollout.behaviour_logprobs
        if rollout.inclusion_probability is not None:
            inclusion[b, :length] = rollout.inclusion_probability
    # An unknown value becomes a mask and a finite number: NaN times 0 would be NaN.
    known = np.isfinite(behaviour)
    rewards = [r.reward for r in rollouts]
    return TrainBatch(
        rollout_ids=tuple(r.rollout_id for r in rollouts),
        uses=tuple(r.uses for r in rollouts),
        input_ids_BL=torch.as_tensor(input_ids),
        predictor_BT=torch.as_tensor(predictor),
        response_ids_BT=torch.as_tensor(response_ids),
        response_mask_BT=torch.as_tensor(response_mask),
        owned_BT=torch.as_tensor(owned),
        behaviour_logprobs_BT=torch.as_tensor(np.where(known, behaviour, 0).astype(np.float32)),
        behaviour_mask_BT=torch.as_tensor(known),
        inclusion_BT=torch.as_tensor(inclusion),
        group_B=torch.tensor([r.group for r in rollouts]),
        has_teacher_B=torch.tensor([r.target is not None for r in rollouts]),
        on_policy_B=torch.tensor([r.on_policy for r in rollouts]),
        given_B=torch.tensor([r.given for r in rollouts]),
        chosen_positions_B=torch.tensor([r.chosen_positions for r in rollouts]),
        # A missing reward is not a reward of 0: `reward_mask_B` excludes it from every mean.
        reward_B=torch.tensor([0.0 if r is None else r for r in rewards], dtype=torch.float32),
        reward_mask_B=torch.tensor([r is not None for r in rewards]),
        targets=_stack_targets(rollouts),
    )


def make_batches(rollouts: Sequence[TrainRollout], *, token_budget: int) -> list[TrainBatch]:
    """Split one step's rollouts into batches of at most `token_budget` padded tokens.

    Groups stay together where they fit, because a group in one call needs no extra pass for its
    baselines. Longest first: little padding, and a call that does not fit into memory fails at the
    start. The order depends only on the rollouts.

    Args:
        rollouts: the whole step.
        token_budget: rows times the longest row; a longer single row gets a batch of its own.

    Returns:
        Batches that hold every rollout once.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be positive, not {token_budget}")
    # Sorting is stable: equal lengths keep the order of the step, so that the same step gives the
    # same batches and bitwise equal sums.
    ordered = sorted(rollouts, key=lambda r: r.group)
    groups = [
        sorted(rows, key=_num_tokens, reverse=True)
        for _, rows in groupby(ordered, key=lambda r: r.group)
    ]
    groups.sort(key=lambda rows: _num_tokens(rows[0]), reverse=True)
    units = [unit for rows in groups for unit in _split(rows, token_budget)]
    packed: list[list[TrainRollout]] = []
    for unit in units:
        # Only the last batch is filled: lengths descend, so earlier batches have longer rows, to
        # which these rows would be padded.
        if packed and _num_padded(packed[-1] + unit) <= token_budget:
            packed[-1].extend(unit)
        else:
            packed.append(list(unit))
    return [collate(rows) for rows in packed]


def _num_tokens(rollout: TrainRollout) -> int:
    return len(rollout.prompt_ids) + rollout.num_tokens


def _num_padded(rows: Sequence[TrainRollout]) -> int:
    return len(rows) * max(_num_tokens(r) for r in rows)


def _split(rows: list[TrainRollout], token_budget: int) -> list[list[TrainRollout]]:
    """A group, longest row first, as one piece if it fits, else in as few pieces as possible."""
    pieces: list[list[TrainRollout]] = []
    while rows:
        # The first row is the longest of those left: all rows of a piece are padded to it.
        num_rows = max(1, min(len(rows), token_budget // _num_tokens(rows[0])))
        pieces.append(rows[:num_rows])
        rows = rows[num_rows:]
    return pieces


# Field of a component, field of the tensors, what an empty cell holds, dtype. An empty cell has
# probability 0 and a finite log-prob, whose product is 0: sums over K and E need no mask.
_CELLS = (
    ("ids_TK", "ids_BTEK", -1, np.int64),
    ("probs_TK", "probs_BTEK", 0, np.float32),
    ("tail_T", "tail_BTE", 0, np.float32),
    ("weight_T", "weight_BTE", 0, np.float32),
    ("own_logprobs_T", "own_logprobs_BTE", ABSENT, np.float32),
    ("own_mask_T", "own_mask_BTE", False, np.bool_),
    ("candidate_logprobs_TC", "candidate_logprobs_BTEC", ABSENT, np.float32),
    ("candidate_mask_TC", "candidate_mask_BTEC", False, np.bool_),
)


def _stack_targets(rollouts: Sequence[TrainRollout]) -> TargetTensors:
    tensors = {
        name: torch.as_tensor(_stack_cells(rollouts, field, empty, dtype))
        for field, name, empty, dtype in _CELLS
    }
    return TargetTensors(
        kind_BE=torch.as_tensor(_stack_kinds(rollouts)),
        candidate_ids_BTC=torch.as_tensor(_stack_candidate_ids(rollouts)),
        **tensors,
    )


def _stack_cells(
    rollouts: Sequence[TrainRollout], field: str, empty: float, dtype: type[np.generic]
) -> NDArray[Any]:
    """One field of all components as [B, T, E] or [B, T, E, K]."""
    values = [[getattr(c, field) for c in _components(rollout)] for rollout in rollouts]
    # Experts may return different numbers of ids; the widest answer of the batch sets K.
    trailing = () if field.endswith("_T") else (_width(v for row in values for v in row),)
    shape = (len(rollouts), _longest(rollouts), max(map(len, values)))
    out = np.full((*shape, *trailing), empty, dtype)
    for b, rollout in enumerate(rollouts):
        for e, value in enumerate(values[b]):
            _place(out[b, :, e], value, field, rollout)
    return out


def _stack_candidate_ids(rollouts: Sequence[TrainRollout]) -> NDArray[np.int64]:
    values = [None if r.target is None else r.target.candidate_ids_TC for r in rollouts]
    shape = (len(rollouts), _longest(rollouts), _width(v for v in values if v is not None))
    out = np.full(shape, -1, np.int64)
    for b, (rollout, value) in enumerate(zip(rollouts, values, strict=True)):
        if value is not None:
            _place(out[b], value, "candidate_ids_TC", rollout)
    return out


def _stack_kinds(rollouts: Sequence[TrainRollout]) -> NDArray[np.int8]:
    out = np.full((len(rollouts), max(len(_components(r)) for r in rollouts)), -1, np.int8)
    for b, rollout in enumerate(rollouts):
        for e, component in enumerate(_components(rollout)):
            if component.kind not in KINDS:
                raise ValueError(
                    f"kind of a component of rollout {rollout.rollout_id!r} is "
                    f"{component.kind!r}, not one of {KINDS}"
                )
            out[b, e] = KINDS.index(component.kind)
    return out


def _components(rollout: TrainRollout) -> tuple[TargetComponent, ...]:
    return () if rollout.target is None else rollout.target.components


def _longest(rollouts: Sequence[TrainRollout]) -> int:
    return max(r.num_tokens for r in rollouts)


def _width(arrays: Iterable[NDArray[Any]]) -> int:
    return max((array.shape[1] for array in arrays), default=0)


def _place(into: NDArray[Any], values: NDArray[Any], field: str, rollout: TrainRollout) -> None:
    if len(values) != rollout.num_tokens:
        raise ValueError(
            f"{field} of the target of rollout {rollout.rollout_id!r} has {len(values)} positions, "
            f"its response has {rollout.num_tokens} tokens"
        )
    into[tuple(slice(0, size) for size in values.shape)] = values


def _moved(tensors: _T, device: torch.device | str) -> _T:
    moved = {
        f.name: value.to(device)
        for f in fields(tensors)  # type: ignore[arg-type]
        if isinstance(value := getattr(tensors, f.name), Tensor)
    }
    return replace(tensors, **moved)  # type: ignore[type-var]
