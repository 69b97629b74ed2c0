"""The learner on several processes, each with a part of the weights and of a step's batches.

Weights, gradients and moments are divided between the ranks by `fully_shard`; a layer is put
together while it computes. Every rank knows all batches, so denominators and baselines are those of
the whole step, and gradients are sums over ranks: a step is the one that a single process takes, up
to the order of summation.

Every method is called on all ranks at a time. A rank that has fewer batches than another passes
nothing instead, because putting layers together takes all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from preceptor_trainer.kit.placement import Placement
from preceptor_trainer.learner.group import Group
from preceptor_trainer.learner.learner import Learner, OptimiserConfig, RolloutCredit
from preceptor_trainer.learner.lora import Adapter, AdapterFiles, check_merged
from preceptor_trainer.learner.passes import Passes
from preceptor_trainer.learner.shares import Share
from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.heads.head import Head
from preceptor_trainer.model.packing import spread
from preceptor_trainer.model.statistics import StudentStatistics
from preceptor_trainer.model.trunk import Trunk, padded, shared_contexts
from preceptor_trainer.model.weights import whole
from preceptor_trainer.objectives import Objective
from preceptor_trainer.objectives.metrics import Mean

T = TypeVar("T")


class ShardedLearner(Learner):
    """One rank's part of a learner."""

    def __init__(
        self,
        model: nn.Module,
        config: OptimiserConfig,
        *,
        group: Group,
        trunk: Trunk,
        head: Head,
        place: Placement,
        adapter: Adapter | None = None,
    ) -> None:
        self._group, self._place = group, place
        # It passes a batch with shared prompts twice and another one once, and ranks must do alike.
        trunk = padded if trunk is shared_contexts else trunk
        super().__init__(model, config, trunk=trunk, head=head, place=place, adapter=adapter)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the policy's weights on rank 0, with an adapter merged into them."""
        found = self._whole({n: p.detach() for n, p in self.model.named_parameters()})
        if self._adapter is None or not found:
            return found
        return self._adapter.merged(found)

    def adapter(self) -> AdapterFiles | None:
        """A copy of the adapter on rank 0."""
        if self._adapter is None:
            return None
        found = self._whole(self._adapter.own(self._named()))
        return self._adapter.as_files(found) if found else None

    def state_dict(self) -> dict[str, Any]:
        """The state of a single process, in rank 0's main memory."""
        state = super().state_dict()
        moments: dict[int, dict[str, Any]] = state["optimiser"]["state"]
        # Moments of a whole model need not fit on one GPU.
        state["optimiser"]["state"] = {
            place: _on_cpu(self._whole(one)) for place, one in moments.items()
        }
        if "adapter" in state:
            state["adapter"] = self._whole(state["adapter"])
        return state

    def restore(self, weights: Mapping[str, Tensor] | None, state: dict[str, Any] | None) -> None:
        """Continue with what a learner on any number of ranks left; others than rank 0 get None.

        Raises:
            ValueError: it does not belong to this model.
        """
        if state is not None and ("adapter" in state) != (self._adapter is not None):
            raise ValueError("lora: a run goes on with an adapter as it was begun")
        parameters = self._trained() if self._adapter else dict(self.model.named_parameters())
        given = None if state is None else state["adapter"] if self._adapter else weights
        if given is not None and given.keys() != parameters.keys():
            differing = sorted(given.keys() ^ parameters.keys())
            raise ValueError(f"weights: missing or unknown {differing[:3]}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._divided(None if given is None else given[name], parameter))
        self._restore_moments(state)
        if self._adapter is not None:
            merged = self.weights()
            if weights is not None:
                check_merged(merged, weights)

    def _restore_moments(self, state: dict[str, Any] | None) -> None:
        """Gives every rank its part of rank 0's moments."""
        outline = self._group.shared(None if state is None else _without_tensors(state))
        numbered: dict[int, dict[str, Any]] = outline["optimiser"]["state"]
        # Moments are numbered as the optimiser has its parameters.
        groups = cast("list[dict[str, list[Tensor]]]", self._optimiser.param_groups)
        parameters = [parameter for group in groups for parameter in group["params"]]
        for place, one in numbered.items():
            for name, value in one.items():
                if value is None:
                    full = None if state is None else state["optimiser"]["state"][place][name]
                    one[name] = self._divided(full, parameters[place])
        self.load_state_dict(outline)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with this rank's part of the moments."""
        self._load_optimiser(state)

    def _arranged(self, passes: Passes) -> Passes:
        mesh = init_device_mesh(self._place.device.type, (self._group.size,))
        names: set[str] = set(getattr(passes.model, "_no_split_modules", None) or ())
        layers = [m for m in passes.model.modules() if type(m).__name__ in names]
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # Embeddings and head are whole from the forward to the backward pass, which need both.
        fully_shard(passes, mesh=mesh, reshard_after_forward=False)
        for module in (*layers, passes):
            divided = cast(FSDPModule, module)
            # A step's loss is a sum whose denominator is known, so gradients are sums as well.
            divided.set_force_sum_reduction_for_comms(True)
            divided.set_gradient_divide_factor(1.0)
        return passes

    def _passed(
        self, shares: Sequence[Share | None]
    ) -> tuple[Tensor, dict[str, Mean], list[RolloutCredit]]:
        # All ranks take part in every backward pass, also one whose own share has no gradient.
        shares = [share and replace(share, is_silent=False) for share in shares]
        own = super()._passed(self._own(shares, [share.batch for share in shares if share]))
        loss, metrics, credits = own[0].cpu(), dict[str, Mean](), list[RolloutCredit]()
        parts = self._group.gathered((loss, own[1], own[2]))
        for _, reported, some in parts:
            for name, mean in reported.items():
                metrics[name] = metrics[name] + mean if name in metrics else mean
            credits += some
        total = torch.stack([part[0] for part in parts]).sum()
        return total, metrics, credits

    def _statistics(
        self, objective: Objective, step: int | None, batches: Sequence[TrainBatch]
    ) -> list[StudentStatistics]:
        places = self._own(range(len(batches)), batches)
        own: dict[int, StudentStatistics] = {}
        with torch.no_grad():
            for place in places:
                if place is None:
                    self._passes.nothing()
                else:
                    (found,) = super()._statistics(objective, step, [batches[place]])
                    own[place] = _moved(found, "cpu")
        # Without a backward pass after it, the last forward pass left embeddings and head whole.
        cast(FSDPModule, self._passes).reshard()
        known: dict[int, StudentStatistics] = {}
        for part in self._group.gathered(own):
            known |= part
        device = self._parameters[0].device
        return [_moved(known[place], device) for place in range(len(batches))]

    def _own(self, items: Sequence[T], batches: Sequence[TrainBatch]) -> list[T | None]:
        """This rank's items, each with a batch; as many as any rank has, None for lack of more."""
        sizes = [batch.input_ids_BL.numel() for batch in batches]
        largest_first = sorted(range(len(sizes)), key=lambda place: -sizes[place])
        bins = spread([sizes[place] for place in largest_first], self._group.size)
        own = [items[largest_first[place]] for place in bins[self._group.rank]]
        return [*own, *[None] * (max(map(len, bins)) - len(own))]

    def _whole(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors put together one after the other, and kept on rank 0 alone."""
        found: dict[str, Any] = {}
        for name, tensor in tensors.items():
            full = whole(tensor) if isinstance(tensor, Tensor) else tensor
            if self._group.rank == 0:
                found[name] = full
        return found

    def _divided(self, full: Tensor | None, like: Tensor) -> Tensor:
        """This rank's part of a tensor that rank 0 has."""
        own = cast(DTensor, like)
        given = torch.empty(own.shape, dtype=own.dtype, device=own.device)
        if full is not None:
            given.copy_(full)
        return distribute_tensor(given, own.device_mesh, own.placements)

    def _trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}


def _without_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """The state with None where a tensor is divided between ranks."""
    moments: dict[int, dict[str, Any]] = state["optimiser"]["state"]
    outline = {place: {k: _outline(v) for k, v in one.items()} for place, one in moments.items()}
    return state | {"adapter": None, "optimiser": state["optimiser"] | {"state": outline}}


def _on_cpu(moments: dict[str, Any]) -> dict[str, Any]:
    return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in moments.items()}


def _outline(value: Any) -> Any:
    return None if isinstance(value, Tensor) and value.ndim > 0 else value


def _moved(stats: StudentStatistics, device: torch.device | str) -> StudentStatistics:
    moved = {k: v.to(device) for k, v in vars(stats).items() if isinstance(v, Tensor)}
    return replace(stats, **moved)
