"""Weights that are an adapter (LoRA) of others: what its files say, and the weights that it makes.

    W = base W + alpha / rank B A

The two files are those of peft, so that its `PeftModel.from_pretrained(base, folder)` reads them
as well. Arrays may be numpy's or torch's. Left out: what peft knows beside plain LoRA, such as
DoRA, biases, and ranks of single layers; such an adapter is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

ADAPTER_FILE: Final = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE: Final = "adapter_config.json"
ADAPTER_FILES: Final = frozenset({ADAPTER_FILE, ADAPTER_CONFIG_FILE})
FIRST_ADAPTER: Final = "adapter"
"""Subfolder of a whole version that later ones are adapters of: an adapter that changes nothing."""
_PREFIX: Final = "base_model.model."
_A: Final = ".lora_A.weight"
_B: Final = ".lora_B.weight"


class AdapterConfig(BaseModel):
    """What `adapter_config.json` has to say for the weights to be known from A and B."""

    model_config = ConfigDict(frozen=True)

    peft_type: Literal["LORA"] = "LORA"
    r: int
    """Rows of A."""
    lora_alpha: float
    """B A counts `lora_alpha` / `r` times."""
    fan_in_fan_out: bool = False
    """Whether the layers' weights have inputs first, as GPT-2's."""
    target_modules: tuple[str, ...] = ()
    """Names of the layers; the tensors' names say it as well."""
    bias: Literal["none"] = "none"
    use_dora: Literal[False] = False
    use_rslora: Literal[False] = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}

    @property
    def scaling(self) -> float:
        """How often B A counts."""
        return self.lora_alpha / self.r

    @classmethod
    def parse(cls, content: bytes) -> AdapterConfig:
        """What a file says.

        Raises:
            ValueError: it is not that of a plain adapter.
        """
        try:
            found = cls.model_validate_json(content)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, one["loc"])) or "JSON" for one in error.errors())
            raise ValueError(f"{ADAPTER_CONFIG_FILE}: not of a plain LoRA: {fields}") from error
        if found.r < 1 or found.rank_pattern or found.alpha_pattern:
            raise ValueError(f"{ADAPTER_CONFIG_FILE}: rank and alpha must be those of all layers")
        return found


def tensor_names(layer: str) -> tuple[str, str]:
    """The names of a layer's A and B in the file."""
    return f"{_PREFIX}{layer}{_A}", f"{_PREFIX}{layer}{_B}"


def layers_of(names: Iterable[str]) -> Iterator[str]:
    """The layers whose A and B these tensors are.

    Raises:
        ValueError: a tensor is neither, or one of a pair is missing.
    """
    given = set(names)
    layers = {name.removeprefix(_PREFIX).removesuffix(_A).removesuffix(_B) for name in given}
    paired = {name for layer in layers for name in tensor_names(layer)}
    if paired != given:
        raise ValueError(f"{ADAPTER_FILE}: no pairs of A and B: {sorted(paired ^ given)[:3]}")
    yield from sorted(layers)


def merged(
    base: Mapping[str, Any], adapter: Mapping[str, Any], config: AdapterConfig
) -> dict[str, Any]:
    """The weights of the model that computes what the base with its adapter does.

    Args:
        base: `[O, I]` or, with `fan_in_fan_out`, `[I, O]`: the base's weights by name.
        adapter: A `[R, I]` and B `[O, R]` of each layer, by their names in the file.
        config: Of the adapter.

    Returns:
        All weights; those without an adapter are the base's own arrays.

    Raises:
        ValueError: A and B are not of this base.
    """
    found = dict(base)
    for layer in layers_of(adapter):
        a_RI, b_OR = (adapter[name] for name in tensor_names(layer))
        own = found.get(f"{layer}.weight")
        if own is None:
            raise ValueError(f"{ADAPTER_FILE}: the base has no layer {layer}")
        delta_OI = config.scaling * (b_OR @ a_RI)
        delta = delta_OI.T if config.fan_in_fan_out else delta_OI
        if delta.shape != own.shape:
            raise ValueError(f"{ADAPTER_FILE}: {layer} has another shape than in the base")
        found[f"{layer}.weight"] = own + delta
    return found
