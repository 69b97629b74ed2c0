"""The self-teacher's weights: an exponential moving average along a policy's line of versions.

    EMA(first) = w(first)
    EMA(v)     = (1 - rate) EMA(parent(v)) + rate w(v)

in float32. Rate 1 is the live policy. An average depends only on a version and its ancestors, so
every replica computes the same bits. Averages of checkpointed versions are stored beside the
weights. Any other average is computed from its nearest ancestor whose average is in memory or
stored.

Source: SDPO (arXiv 2601.20802) and DistIL (arXiv 2606.05152) update the teacher once per step.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from cachetools import LRUCache
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from preceptor_clients.contract.errors import ServiceFailed, WeightsNotHere
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.kit.files import write_whole
from preceptor_clients.sdk.adapters import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    AdapterConfig,
    merged,
)
from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE, OfferedWeights

_FORMAT: Final = "ema-1"
_log = logging.getLogger(__name__)
State = dict[str, Tensor]


class WeightCatalogue(OfferedWeights):
    """The versions offered so far, each with its parent; adapters too."""

    def __init__(
        self,
        roots: Sequence[Path],
        vocab_fingerprint: str,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        """None are offered yet.

        Args:
            roots: Folders under which versions may lie.
            vocab_fingerprint: The service's vocabulary.
            initial: Weights that are in memory anyway, by name, in float32 on the CPU. A first
                version shares those that it has too.
        """
        super().__init__(roots, vocab_fingerprint, adapters=True)
        self._initial = initial or {}
        self._base: tuple[str, State] | None = None

    def load(self, manifest: WeightManifest, device: torch.device) -> dict[str, Tensor]:
        """The weights of a version as float32 tensors; do not write into them.

        Raises:
            WeightsNotHere: The file does not exist any more.
            ServiceFailed: The bytes differ from the manifest, or are not weights.
        """
        try:
            tensors = self._whole(manifest) if manifest.base is None else self._merged(manifest)
        except (SafetensorError, ValueError) as error:
            raise ServiceFailed(f"{manifest.version}: {error}", field="weights") from error
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    def _whole(self, manifest: WeightManifest) -> State:
        tensors = _in_float32(load(self.content(manifest)))
        if manifest.parent is not None:
            return tensors
        return {name: self._shared(name, tensor) for name, tensor in tensors.items()}

    def _shared(self, name: str, tensor: Tensor) -> Tensor:
        own = self._initial.get(name)
        return own if own is not None and torch.equal(own, tensor) else tensor

    def _merged(self, manifest: WeightManifest) -> State:
        base = self.base_of(manifest)
        if self._base is None or self._base[0] != base.version:
            self._base = base.version, self._whole(base)
        config = AdapterConfig.parse(self.content(manifest, ADAPTER_CONFIG_FILE))
        adapter = _in_float32(load(self.content(manifest, ADAPTER_FILE)))
        return merged(self._base[1], adapter, config)


def _in_float32(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}


class AverageWeights:
    """Computes and caches EMA states; the newest few versions are kept in memory."""

    def __init__(
        self,
        catalogue: WeightCatalogue,
        *,
        rate: float,
        versions_kept: int,
        device: torch.device | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._device = device or torch.device("cpu")
        self._rate = rate
        self._states: LRUCache[str, State] = LRUCache(versions_kept)

    def __contains__(self, version: str) -> bool:
        return version in self._states

    def state(self, version: str) -> State:
        """EMA(version); do not write into it.

        Raises:
            WeightsNotHere: The version, or an ancestor that its average needs, is not available.
            ServiceFailed: Bytes differ from their manifest.
        """
        line = self._line_from_known(version)
        state = self._known(line[0])
        for manifest in line if state is None else line[1:]:
            state = self._follow(manifest, state)
            self._keep(manifest, state)
        assert state is not None
        return state

    def store_checkpoint(self, version: str) -> None:
        """Stores the average of a checkpoint's version, if it is in memory."""
        manifest, state = self._catalogue.get(version), self._states.get(version)
        if manifest is not None and state is not None and manifest.checkpoint:
            self._store(manifest, state)

    def _line_from_known(self, version: str) -> list[WeightManifest]:
        """The versions from the nearest ancestor with a known average, or the first, to
        `version`."""
        line: list[WeightManifest] = []
        # At rate 1 an average equals its version: no ancestor is needed or requested.
        needed = 1 if self._rate == 1.0 else None
        for name in [version, *self._catalogue.ancestors(version)][:needed]:
            manifest = self._catalogue.get(name)
            if manifest is None:
                raise WeightsNotHere(
                    f"{version} is not here: its ancestor {name} was not offered"
                    if name != version
                    else f"{version} was not offered to this replica",
                    field="weights",
                )
            line.insert(0, manifest)
            if self._known(manifest) is not None:
                break
        return line

    def _known(self, manifest: WeightManifest) -> State | None:
        if manifest.version not in self._states:
            stored = self._stored(manifest)
            if stored is None:
                return None
            self._states[manifest.version] = stored
        return self._states[manifest.version]

    def _follow(self, manifest: WeightManifest, parent: State | None) -> State:
        weights = self._catalogue.load(manifest, self._device)
        # The first version is its own average. Starting from 0 instead would make the teacher of
        # early steps an untrained model.
        if parent is None or self._rate == 1.0:
            return weights
        if parent.keys() != weights.keys():
            raise WeightsNotHere(
                f"{manifest.version} has different tensors than its parent {manifest.parent}",
                field="weights",
            )
        # lerp keeps an unchanged weight bit by bit; (1 - rate) a + rate w does not. Weights that an
        # adapter leaves alone are one tensor in all averages.
        return {
            name: w if w is parent[name] else torch.lerp(parent[name], w, self._rate)
            for name, w in weights.items()
        }

    def _keep(self, manifest: WeightManifest, state: State) -> None:
        self._states[manifest.version] = state
        if manifest.checkpoint:
            self._store(manifest, state)

    # ------------------------------------------------------------ beside the weights

    def _path(self, manifest: WeightManifest) -> Path:
        folder = self._catalogue.folder(manifest, "weights")
        # The rate is part of the path, so that two teachers of one policy do not read each other's
        # averages.
        settings = hashlib.sha256(f"{_FORMAT} {self._rate!r}".encode()).hexdigest()[:12]
        return folder.parent / f"ema-{settings}" / f"{folder.name}.safetensors"

    def _store(self, manifest: WeightManifest, state: State) -> None:
        path = self._path(manifest)
        note_path = path.with_suffix(".json")
        if note_path.exists() or self._rate == 1.0:
            return
        content = save(state)
        note = self._identity(manifest) | {"sha256": hashlib.sha256(content).hexdigest()}
        try:
            write_whole(path, content)
            # Written last, because it marks the tensors as complete.
            write_whole(note_path, json.dumps(note, indent=1).encode())
        except OSError as error:
            # The weights' folder may be read-only here; then more is recomputed after a restart.
            _log.warning("the average of %s was not stored: %s", manifest.version, error)

    def _stored(self, manifest: WeightManifest) -> State | None:
        if not manifest.checkpoint:
            return None
        path = self._path(manifest)
        try:
            note = json.loads(path.with_suffix(".json").read_bytes())
            content = path.read_bytes()
            if note != self._identity(manifest) | {"sha256": hashlib.sha256(content).hexdigest()}:
                _log.warning("%s was made from other weights; the average is recomputed", path)
                return None
            return {name: tensor.to(self._device) for name, tensor in load(content).items()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, SafetensorError) as error:
            _log.warning("%s cannot be used (%s); the average is recomputed", path, error)
            return None

    def _identity(self, manifest: WeightManifest) -> dict[str, str]:
        return {
            "format": _FORMAT,
            "rate": repr(self._rate),
            "version": manifest.version,
            "weights_sha256": self._weights_sha256(manifest),
        }

    def _weights_sha256(self, manifest: WeightManifest) -> str:
        if manifest.base is None:
            return manifest.files[WEIGHTS_FILE]
        hashes = [manifest.files[name] for name in sorted(manifest.files)]
        return " ".join([self._catalogue.base_of(manifest).files[WEIGHTS_FILE], *hashes])
