"""Keeps the versions of a policy's weights that a service may load, and reads one of them safely.

A version is immutable, so its manifest is too. An offer gets only cheap checks (address, names,
vocabulary, no contradiction of an earlier one). When a version is loaded, its bytes are read once
and hashed, and exactly those bytes are used, so that a file changed in between is not loaded. A
version may be an adapter of an earlier one (`adapters.py`), where the service takes such versions.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from preceptor_clients.contract.checks import MEND_VOCABULARY
from preceptor_clients.contract.errors import Conflict, Invalid, ServiceFailed, WeightsNotHere
from preceptor_clients.contract.fingerprint import vocab_difference
from preceptor_clients.contract.schemas import WantedWeights, WeightManifest
from preceptor_clients.sdk.adapters import ADAPTER_FILES

WEIGHTS_FILE: Final = "model.safetensors"


class OfferedWeights:
    """The versions offered so far, each with its parent."""

    def __init__(
        self, roots: Sequence[Path], vocab_fingerprint: str, *, adapters: bool = False
    ) -> None:
        """None are offered yet.

        Args:
            roots: Folders under which versions may lie.
            vocab_fingerprint: The service's vocabulary.
            adapters: Whether the service takes versions that are adapters.
        """
        self._roots = [root.resolve() for root in roots]
        self._vocab_fingerprint = vocab_fingerprint
        self._adapters = adapters
        self._manifests: dict[str, WeightManifest] = {}

    def offer(self, manifests: Sequence[WeightManifest]) -> None:
        """Adds versions; all of them or, on an error, none.

        Raises:
            Invalid: An address outside the allowed roots, no weights file, another vocabulary, or
                an adapter whose base was not offered before it.
            Conflict: A version that is known with other files, another parent or another base.
        """
        before = dict(self._manifests)
        for index, manifest in enumerate(manifests):
            self._check(manifest, f"manifests[{index}]", before)
            before[manifest.version] = manifest
        self._manifests.update({manifest.version: manifest for manifest in manifests})

    def get(self, version: str) -> WeightManifest | None:
        """The manifest of `version`; None if it was not offered."""
        return self._manifests.get(version)

    def resolve(self, wanted: WantedWeights) -> str:
        """The version that `wanted` selects now.

        `at_least v` is the newest version that descends from v, `latest` the newest of the policy;
        the newest is the one that was offered last.

        Raises:
            WeightsNotHere: No such version was offered.
        """
        newest_first = list(reversed(self._manifests))
        if wanted.mode == "latest":
            name = f"any of policy {wanted.policy}"
            found = [v for v in newest_first if v.startswith(f"{wanted.policy}/")]
        else:
            name = str(wanted.version)
            exact = wanted.mode == "exact"
            found = [
                v for v in newest_first if v == name or (not exact and name in self.ancestors(v))
            ]
        if not found:
            raise WeightsNotHere(f"{name} was not offered to this replica", field="weights")
        return found[0]

    def ancestors(self, version: str) -> list[str]:
        """Known and named ancestors of `version`, its parent first."""
        found: list[str] = []
        manifest = self._manifests.get(version)
        while manifest is not None and manifest.parent is not None:
            if manifest.parent in found or manifest.parent == version:
                raise Invalid(f"{version} descends from itself", field="manifests")
            found.append(manifest.parent)
            manifest = self._manifests.get(manifest.parent)
        return found

    def base_of(self, manifest: WeightManifest) -> WeightManifest:
        """The whole version that an adapter changes."""
        assert manifest.base is not None, f"{manifest.version} is whole"
        return self._manifests[manifest.base]

    def content(self, manifest: WeightManifest, name: str = WEIGHTS_FILE) -> bytes:
        """The bytes of one of a version's files.

        Raises:
            WeightsNotHere: The file cannot be read.
            ServiceFailed: The bytes differ from the ones that were offered.
        """
        folder = self.folder(manifest, "weights")
        try:
            content = _read_regular(folder / name)
        except OSError as error:
            raise WeightsNotHere(
                f"{manifest.version}: {name} cannot be read: {error.strerror}",
                field="weights",
            ) from error
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise ServiceFailed(
                f"{manifest.version}: {name} does not have the SHA-256 of its manifest",
                field="weights",
            )
        return content

    def folder(self, manifest: WeightManifest, field: str) -> Path:
        """The local folder of a version, checked with every symbolic link resolved.

        Raises:
            Invalid: It is not a `file:` address, or leads outside the allowed roots.
        """
        uri = urlsplit(manifest.uri)
        path = Path(unquote(uri.path))
        if uri.scheme != "file" or uri.netloc not in ("", "localhost") or not path.is_absolute():
            raise Invalid(f"{manifest.uri!r} is not a local file: URI", field=f"{field}.uri")
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in self._roots):
            raise Invalid(f"{manifest.uri!r} is not under an allowed root", field=f"{field}.uri")
        return real

    def _check(
        self, manifest: WeightManifest, field: str, before: Mapping[str, WeightManifest]
    ) -> None:
        self.folder(manifest, field)
        if manifest.base is not None:
            self._check_base(manifest.base, field, before)
        names = {WEIGHTS_FILE} if manifest.base is None else ADAPTER_FILES
        if set(manifest.files) != names:
            raise Invalid(f"must name only {', '.join(sorted(names))}", field=f"{field}.files")
        if manifest.vocab_fingerprint != self._vocab_fingerprint:
            why = vocab_difference(
                "the expert", self._vocab_fingerprint, "the manifest", manifest.vocab_fingerprint
            )
            raise Invalid(f"{why}. {MEND_VOCABULARY}", field=f"{field}.vocab_fingerprint")
        known = before.get(manifest.version)
        if known is not None and _content(known) != _content(manifest):
            raise Conflict(
                f"{manifest.version} is known with other files, another parent or another base",
                field=f"{field}.version",
            )

    def _check_base(self, base: str, field: str, before: Mapping[str, WeightManifest]) -> None:
        if not self._adapters:
            raise Invalid("this service takes whole versions, no adapters", field=f"{field}.base")
        known = before.get(base)
        if known is None or known.base is not None:
            raise Invalid(
                f"{base} was not offered before as a whole version", field=f"{field}.base"
            )


def _content(manifest: WeightManifest) -> tuple[object, ...]:
    return manifest.files, manifest.parent, manifest.base


def _read_regular(path: Path) -> bytes:
    """The bytes of a regular file that is not a symbolic link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "is not a regular file")
        return file.read()
