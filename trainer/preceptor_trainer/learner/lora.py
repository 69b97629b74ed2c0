"""LoRA: the policy's own weights stay, and small matrices beside them are trained.

    adapter = add_adapter(model, Lora(rank=16), 0)      # changes `model` in place
    adapter.merged(weights_of(model))                              # weights of the plain model

A layer W computes (W + (alpha / rank) B A) x. A is random and B zero at first, so that training
begins with the policy as it is. Source: Hu et al., arXiv 2106.09685; the layers are peft's.

A run's first version has all weights, and later ones A and B in peft's files. Where a service takes
no adapters they have merged weights, as exported folders do. Checkpoints have A and B too, because
they cannot be found from merged weights.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from preceptor_clients.sdk.adapters import AdapterConfig, tensor_names
from preceptor_trainer.kit.seeding import generator

ALL_LINEAR: Final = "all-linear"
"""Every linear layer but the output embedding."""
_NAME: Final = "default"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Which layers get an adapter, and how large it is."""

    rank: int = 16
    """Rows of A and columns of B; no more than a layer's smaller side is of use."""
    alpha: float = 32.0
    """The product B A counts alpha / rank times."""
    dropout: float = 0.0
    """Share of an adapter's inputs that an update sets to zero. Samples and the loss that
    `preceptor try` prints are without it."""
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Ends of layers' names, such as `q_proj`; or `all-linear`, every linear layer but the output
    embedding."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be positive, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not self.targets:
            raise ValueError("targets must name at least one layer")
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise ValueError(f"targets: {ALL_LINEAR!r} is given alone, not beside names of layers")
        load_peft()


def load_peft() -> Any:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ValueError("lora: peft is not installed; pip install 'preceptor[lora]'") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterFiles:
    """A copy of an adapter, as its files have it."""

    tensors: Mapping[str, Tensor]
    """A `[R, I]` and B `[O, R]` of each layer, by peft's names."""
    config: AdapterConfig


class Adapter:
    """The adapter of a model, whose other weights do not change any more."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the plain model that computes the same, in float32 or wider.

        Args:
            weights: Of the model with its adapter, by name.
        """
        plain = {
            name.replace(".base_layer.", "."): weight
            for name, weight in weights.items()
            if not _is_adapters(name)
        }
        for name, layer in _layers(self.model):
            a_RI = weights[f"{name}.lora_A.{_NAME}.weight"]
            b_OR = weights[f"{name}.lora_B.{_NAME}.weight"]
            delta_OI = layer.scaling[_NAME] * (b_OR @ a_RI)
            # GPT-2's layers have inputs first.
            own = plain[f"{name}.weight"]
            plain[f"{name}.weight"] = own + (delta_OI.T if layer.fan_in_fan_out else delta_OI)
        return plain

    def own(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A and B of all layers."""
        return {name: weight for name, weight in weights.items() if _is_adapters(name)}

    def as_files(self, weights: Mapping[str, Tensor]) -> AdapterFiles | None:
        """A and B as peft has them in files; None where its one setting cannot say how they count.

        Args:
            weights: Of the model with its adapter, by name.
        """
        layers = dict(_layers(self.model))
        ways = {
            (layer.r[_NAME], layer.lora_alpha[_NAME], bool(layer.fan_in_fan_out))
            for layer in layers.values()
        }
        if len(ways) != 1:
            return None
        rank, alpha, transposed = ways.pop()
        tensors: dict[str, Tensor] = {}
        for name in layers:
            a_name, b_name = tensor_names(name)
            tensors[a_name] = weights[f"{name}.lora_A.{_NAME}.weight"].clone().contiguous()
            tensors[b_name] = weights[f"{name}.lora_B.{_NAME}.weight"].clone().contiguous()
        config = AdapterConfig(
            r=rank, lora_alpha=alpha, fan_in_fan_out=transposed, target_modules=tuple(layers)
        )
        return AdapterFiles(tensors=tensors, config=config)

    def dropping(self, seed: int) -> AbstractContextManager[None]:
        """Inputs are dropped within it, the same ones for the same seed."""
        dropouts = [
            module
            for _, layer in _layers(self.model)
            for module in cast("nn.ModuleDict", layer.lora_dropout).values()
            if isinstance(module, nn.Dropout)
        ]
        return _dropping(dropouts, seed) if dropouts else nullcontext()


def add_adapter(model: nn.Module, lora: Lora, seed: int) -> Adapter:
    """Gives the model's layers adapters, in place; only they have gradients then.

    Raises:
        ValueError: there is no such layer, or it is an embedding.
    """
    peft = load_peft()
    check_targets(model, lora.targets)
    targets = ALL_LINEAR if lora.targets == (ALL_LINEAR,) else list(lora.targets)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
    )
    with _forked():
        peft.inject_adapter_in_model(config, model.eval(), adapter_name=_NAME)
    randomness = generator(seed, "lora")
    for _, layer in _layers(model):
        weight = layer.lora_A[_NAME].weight
        # As peft does; made on the CPU, so that a seed gives the same adapter on every device.
        own = nn.init.kaiming_uniform_(
            torch.empty(weight.shape), a=math.sqrt(5), generator=randomness
        )
        weight.data.copy_(own)
    return Adapter(model)


def check_merged(found: Mapping[str, Tensor], published: Mapping[str, Tensor]) -> None:
    """Checks that an adapter on its model is what was published.

    Raises:
        ValueError: it is not, because the model is another one than the run was begun with.
    """
    for name, weight in found.items():
        wanted = published.get(name)
        # Another machine rounds products otherwise.
        if wanted is None or not torch.allclose(weight.cpu(), wanted.cpu(), rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"lora: {name} of the model with its adapter differs from the published version; "
                "the folder `model.path` is not the one that the run was begun with"
            )


def check_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    """Checks that the model has these layers, and that none is an embedding.

    Raises:
        ValueError: one of them is not.
    """
    if targets == (ALL_LINEAR,):
        return
    embeddings = (cast(Any, model).get_input_embeddings(), cast(Any, model).get_output_embeddings())
    for target in targets:
        found = [
            module
            for name, module in _modules(model)
            if name == target or name.endswith(f".{target}")
        ]
        if not found:
            raise ValueError(f"targets: the model has no layer {target!r}")
        if any(module in embeddings for module in found):
            # Tied embeddings would be changed twice by one adapter, and heads read plain weights.
            raise ValueError(f"targets: {target!r} is an embedding; name layers of the decoder")


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers with an adapter."""
    for name, module in _modules(model):
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            yield name, module


def _is_adapters(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


@contextmanager
def _dropping(dropouts: list[nn.Dropout], seed: int) -> Generator[None]:
    for module in dropouts:
        module.train()
    try:
        with _forked():
            torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
            yield
    finally:
        for module in dropouts:
            module.eval()


def _forked() -> AbstractContextManager[None]:
    """Random numbers drawn within it leave the global generators as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    return cast(Any, torch).random.fork_rng(devices=devices)


def _modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
