"""The file that vLLM loads a version of the weights from: a private copy of checked bytes.

vLLM reads whole models. An adapter is therefore merged with its base here, in float32 and by numpy,
since the service's own process has no need of torch.

A small step changes a weight by less than bfloat16 holds. Rounded to the nearest, most weights stay
what they were, and vLLM draws from an older policy than the trainer's. Rounded up or down by
chance, each is right on average, and so are sums over many.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from preceptor_clients.contract.errors import ServiceFailed
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.sdk.adapters import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    AdapterConfig,
    merged,
)
from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE, OfferedWeights


def write_weights(
    offered: OfferedWeights, manifest: WeightManifest, folder: Path, *, stochastic: bool = False
) -> None:
    """Writes a version's whole weights into `folder`.

    Args:
        offered: Has the manifests.
        manifest: Of the version.
        folder: Gets the file.
        stochastic: Whether weights are rounded to bfloat16, up or down by chance; the same for the
            same version.

    Raises:
        WeightsNotHere: A file cannot be read.
        ServiceFailed: Bytes differ from their manifest, or are no weights.
    """
    content = None if manifest.base is not None else offered.content(manifest)
    if content is not None and not (stochastic and _has_more_than_bfloat16(content)):
        (folder / WEIGHTS_FILE).write_bytes(content)
        return
    # It comes with vLLM; the light SDK does without it.
    files: Any = importlib.import_module("safetensors.numpy")
    failure: type[Exception] = importlib.import_module("safetensors").SafetensorError
    try:
        weights = _merged(files.load, offered, manifest) if content is None else files.load(content)
    except (ValueError, failure) as error:
        raise ServiceFailed(f"{manifest.version}: {error}", field="weights") from error
    if stochastic:
        seed = int.from_bytes(hashlib.sha256(manifest.version.encode()).digest())
        draw = np.random.default_rng(seed)
        weights = {name: _rounded(weights[name], draw) for name in sorted(weights)}
    # The format has rows one after another, whatever order a sum left them in.
    rows = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    files.save_file(rows, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _has_more_than_bfloat16(content: bytes) -> bool:
    """Whether there is something to round: a run may publish in bfloat16 itself."""
    size = int.from_bytes(content[:8], "little")
    try:
        header: dict[str, dict[str, Any]] = json.loads(content[8 : 8 + size])
    except ValueError:
        return True  # what reads it says what is wrong
    own = (entry for name, entry in header.items() if name != "__metadata__")
    return any(entry["dtype"] != "BF16" for entry in own)


def _merged(
    load: Callable[[bytes], dict[str, Any]], offered: OfferedWeights, manifest: WeightManifest
) -> dict[str, Any]:
    return merged(
        load(offered.content(offered.base_of(manifest))),
        load(offered.content(manifest, ADAPTER_FILE)),
        AdapterConfig.parse(offered.content(manifest, ADAPTER_CONFIG_FILE)),
    )


def _rounded(weight: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Float32 numbers that bfloat16 holds exactly."""
    if weight.dtype != np.float32:
        return weight
    bits = np.ascontiguousarray(weight).view(np.uint32)
    # The lower half decides how likely a carry into the upper one is, which is the bfloat16.
    by_chance = bits + draw.integers(1 << 16, size=bits.shape, dtype=np.uint16)
    return (by_chance & np.uint32(0xFFFF0000)).view(np.float32)
