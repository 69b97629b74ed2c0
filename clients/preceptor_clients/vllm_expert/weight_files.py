"""The file that vLLM loads a version of the weights from: a private copy of checked bytes.

vLLM reads whole models. An adapter is therefore merged with its base here, in float32 and by numpy,
since the service's own process has no need of torch.
"""

from __future__ import annotations

import importlib
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


def write_weights(offered: OfferedWeights, manifest: WeightManifest, folder: Path) -> None:
    """Writes a version's whole weights into `folder`.

    Raises:
        WeightsNotHere: A file cannot be read.
        ServiceFailed: Bytes differ from their manifest, or are no weights.
    """
    if manifest.base is None:
        (folder / WEIGHTS_FILE).write_bytes(offered.content(manifest))
        return
    # It comes with vLLM; the light SDK does without it.
    files: Any = importlib.import_module("safetensors.numpy")
    failure: type[Exception] = importlib.import_module("safetensors").SafetensorError
    try:
        weights = merged(
            files.load(offered.content(offered.base_of(manifest))),
            files.load(offered.content(manifest, ADAPTER_FILE)),
            AdapterConfig.parse(offered.content(manifest, ADAPTER_CONFIG_FILE)),
        )
    except (ValueError, failure) as error:
        raise ServiceFailed(f"{manifest.version}: {error}", field="weights") from error
    # The format has rows one after another, whatever order a sum left them in.
    rows = {name: np.ascontiguousarray(weight) for name, weight in weights.items()}
    files.save_file(rows, folder / WEIGHTS_FILE, metadata={"format": "pt"})
