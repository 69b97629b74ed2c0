"""Versions on disk that are an adapter of another version: a few MB instead of a model.

    ROOT/run/l0/0/model.safetensors                              # the base
    ROOT/run/l0/0/adapter/                                       # it again, as an adapter
    ROOT/run/l0/7/adapter_model.safetensors, adapter_config.json

The adapter's file names its base, so that a version can be read without the gateway. The first
adapter changes nothing. A server that draws from adapters of several runs is asked for it, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from preceptor_clients.sdk.adapters import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    AdapterConfig,
    merged,
)
from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE
from preceptor_trainer.learner.lora import AdapterFiles


def write_adapter(folder: Path, adapter: AdapterFiles, base: str) -> None:
    """Writes an adapter of the version `base` into `folder`."""
    metadata = {"format": "pt", "base": base}
    save_file(dict(adapter.tensors), folder / ADAPTER_FILE, metadata=metadata)
    config = {"task_type": "CAUSAL_LM"} | adapter.config.model_dump(mode="json")
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(config, indent=1))


def holds_version(folder: Path) -> bool:
    """Whether a folder has weights, or an adapter of others."""
    return (folder / WEIGHTS_FILE).is_file() or (folder / ADAPTER_FILE).is_file()


def base_folder(folder: Path) -> Path | None:
    """The folder of the version that `folder` is an adapter of; None for a whole version."""
    if not (folder / ADAPTER_FILE).is_file():
        return None
    opened: Any = safe_open(folder / ADAPTER_FILE, "pt")
    with opened as file:
        base: str = file.metadata()["base"]
    # ROOT/{policy}/{lineage}/{step}
    return folder.parents[2] / base


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of the version in `folder`, with an adapter merged into its base.

    Raises:
        ValueError: the adapter is not one of its base.
    """
    base = base_folder(folder)
    if base is None:
        return load_file(folder / WEIGHTS_FILE)
    config = AdapterConfig.parse((folder / ADAPTER_CONFIG_FILE).read_bytes())
    return merged(load_file(base / WEIGHTS_FILE), load_file(folder / ADAPTER_FILE), config)
