"""AdamW with its moments elsewhere than beside the weights in float32.

    optimiser = RoundedAdamW(groups, lr=1e-5, betas=(0.9, 0.99), eps=1e-8)   # 4 bytes a weight
    optimiser = HostAdamW(groups, lr=1e-5, betas=(0.9, 0.99), eps=1e-8)      # none on the device

Rounding. bfloat16 has 8 bits. A moment with a decay of 0.999 changes by a thousandth of what it
differs by, which is less than half of the last place: rounded to the nearest it would stay as it
is. Rounded at random, up with the probability of what is cut off, it is right on average. The step
itself is taken with the moments before they are rounded. The number of the step decides all that is
random, so that a run that goes on takes the steps of one that was not interrupted.

Left out on purpose. Moments of 8 bits (arXiv 2110.02861): the libraries that have them are loaded
by transformers wherever they are installed, in every process of a run. torchao's offloading: it
copies gradients in the backward pass, before they are scaled down or found to be no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from preceptor_trainer.learner.rounding import rounded

Moments = Literal["float32", "bfloat16", "host"]
MOMENTS: Final = ("exp_avg", "exp_avg_sq")
_CHUNK: Final = 1 << 24
"""Weights that are stepped at a time: their moments in float32 are short-lived."""
_CPU_CHUNK: Final = 1 << 18
"""The same on a CPU, where these moments should stay in its cache."""
_SEED: Final = 0x9E3779B9
"""Of a step's rounding, with its number."""


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW with moments in bfloat16, rounded at random."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._generators: dict[torch.device, torch.Generator] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override] # closures are not used here
        """Takes one step with the gradients of all weights that have one."""
        assert closure is None
        self._generators = {}
        for group in self.param_groups:
            for parameter in cast("list[nn.Parameter]", group["params"]):
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with moments of any data type."""
        # Without the moments, which torch would give the data type of their weights.
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for place, state in state_dict["state"].items():
            parameter = parameters[place]
            kept = {name: state[name].to(parameter.device, torch.bfloat16) for name in MOMENTS}
            self.state[parameter] = {"step": state["step"].cpu(), **kept}

    def _step(self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        state = cast("dict[str, Any]", self.state[parameter])
        if not state:
            state["step"] = torch.zeros(())
            for name in MOMENTS:
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        # Not in place: whoever has the state of before keeps it.
        state["step"] = state["step"] + 1
        step = int(state["step"])
        generator = self._generator(parameter.device, step)
        rows = (parameter, grad, *(state[name] for name in MOMENTS))
        for some in zip(*(_rows(_own(tensor)) for tensor in rows), strict=True):
            _adamw(*some, step=step, group=group, generator=generator)

    def _generator(self, device: torch.device, step: int) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(_SEED + step)
        return self._generators[device]


def _own(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _rows(tensor: Tensor) -> Iterator[Tensor]:
    """Views of at most a chunk of weights each, or of one row."""
    chunk = _CPU_CHUNK if tensor.device.type == "cpu" else _CHUNK
    if tensor.numel() <= chunk:
        yield tensor
    else:
        yield from cast("Any", tensor).split(max(1, chunk * len(tensor) // tensor.numel()))


def _adamw(
    weights: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    group: dict[str, Any],
    generator: torch.Generator,
) -> None:
    (beta1, beta2), lr = group["betas"], group["lr"]
    grad = grad.float()
    mean = first.float().lerp_(grad, 1 - beta1)
    square = second.float().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    scale = ((square / (1 - beta2**step)).sqrt_()).add_(group["eps"])
    weights.mul_(1 - lr * group["weight_decay"])
    weights.addcdiv_(mean, scale, value=-lr / (1 - beta1**step))
    random = _random_bits(mean, generator)
    first.copy_(rounded(mean, random & 0xFFFF))
    second.copy_(rounded(square, (random >> 16) & 0xFFFF))


def _random_bits(like: Tensor, generator: torch.Generator) -> Tensor:
    """int32 of this shape; 64 bits are drawn at a time, in half of the time."""
    drawn = torch.empty((like.numel() + 1) // 2, dtype=torch.int64, device=like.device)
    drawn.random_(-(1 << 63), None, generator=generator)
    return drawn.view(torch.int32)[: like.numel()].view(like.shape)


class _Copy(NamedTuple):
    """A weight on the device, and what of it is in main memory."""

    parameter: nn.Parameter
    own: nn.Parameter
    grad: Tensor


class HostAdamW:
    """AdamW whose moments are in main memory, where its steps are taken too.

    Weights and gradients are copied there for a step and the weights back, so that whatever else
    changes weights on the device is seen.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        self._copies: list[_Copy] = []
        here = [group | {"params": [self._copy(p) for p in group["params"]]} for group in groups]
        self._adamw = torch.optim.AdamW(here, lr=lr, betas=betas, eps=eps, fused=True)

    def _copy(self, parameter: nn.Parameter) -> nn.Parameter:
        # Pinned, because a copy from or to other memory takes several times as long.
        place: Any = {"device": "cpu", "pin_memory": parameter.is_cuda}
        own = nn.Parameter(torch.empty_like(parameter, **place))
        self._copies.append(_Copy(parameter, own, torch.empty_like(parameter, **place)))
        return own

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of the copies, with the rate of the next step."""
        return self._adamw.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Removes the gradients on the device."""
        assert set_to_none
        for copy in self._copies:
            copy.parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Takes one step with the gradients of all weights that have one."""
        stepped = [copy for copy in self._copies if copy.parameter.grad is not None]
        for copy in stepped:
            copy.own.copy_(copy.parameter)
            copy.own.grad = copy.grad.copy_(cast("Tensor", copy.parameter.grad))
        cast("Any", self._adamw).step()
        for copy in stepped:
            copy.parameter.copy_(copy.own)
            copy.own.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What torch's AdamW on the device would have."""
        return self._adamw.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with moments of any device."""
        self._adamw.load_state_dict(state_dict)
