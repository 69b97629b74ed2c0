"""Weight versions: registered once, checked against their hashes, never changed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from preceptor_clients.contract.errors import Conflict, Invalid, NotFound, PreceptorError
from preceptor_clients.contract.schemas import WantedWeights, WeightManifest
from preceptor_clients.sdk.adapters import ADAPTER_FILES
from preceptor_clients.sdk.offered_weights import WEIGHTS_FILE
from preceptor_services.kit.clock import Clock
from preceptor_services.store.database import Connection, Database
from preceptor_services.store.provenance import weights


@dataclass(frozen=True, kw_only=True)
class WeightVersions:
    """The versions of all policies."""

    database: Database
    clock: Clock
    roots: Sequence[Path]
    """Folders below which weights are allowed."""

    async def register(self, manifest: WeightManifest) -> int:
        """Registers a version; 1 if it is new, 0 if the same was registered before.

        Raises:
            Conflict: the version is registered with other content.
            Invalid: the folder is not under an allowed root, a file does not match its hash, or an
                adapter's base is not registered as a whole version.
        """
        async with self.database.read() as conn:
            known = await weights.find(conn, manifest.version)
        if known is not None:
            return _same_or_conflict(manifest, known)
        folder = allowed_folder(manifest.uri, self.roots)
        await asyncio.to_thread(_check_files, folder, manifest)
        policy, lineage, step = manifest.version.split("/")
        row = {
            "version": manifest.version,
            "policy": policy,
            "lineage": lineage,
            "step": int(step),
            "parent": manifest.parent,
            "manifest": manifest.model_dump(mode="json"),
            "created_at": self.clock.now(),
        }
        async with self.database.write() as conn:
            if manifest.parent is not None and not await weights.known(conn, manifest.parent):
                raise Invalid(f"{manifest.parent} is not registered", field="parent")
            if manifest.base is not None:
                base = await weights.find(conn, manifest.base)
                if base is None or base.get("base") is not None:
                    raise Invalid(
                        f"{manifest.base} is not registered as a whole version", field="base"
                    )
            known = await weights.find(conn, manifest.version)
            if known is not None:
                return _same_or_conflict(manifest, known)
            await weights.add(conn, row)
        return 1

    async def find(self, version: str) -> WeightManifest:
        """The manifest of one version."""
        async with self.database.read() as conn:
            known = await weights.find(conn, version)
        if known is None:
            raise NotFound(f"weights {version} are not registered", field="version")
        return WeightManifest.model_validate(known)

    async def ancestry(self, version: str) -> tuple[WeightManifest, ...]:
        """A version and its ancestors, the first ancestor first."""
        async with self.database.read() as conn:
            chain = await weights.ancestry(conn, version)
        if not chain:
            raise NotFound(f"weights {version} are not registered", field="version")
        return tuple(WeightManifest.model_validate(manifest) for manifest in chain)


def _same_or_conflict(manifest: WeightManifest, known: dict[str, object]) -> int:
    if WeightManifest.model_validate(known) != manifest:
        raise Conflict(f"{manifest.version} is registered with other content", field="version")
    return 0


def allowed_folder(uri: str, roots: Sequence[Path]) -> Path:
    """The folder of a `file:` URI, links resolved, if it is below one of `roots`."""
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise Invalid(f"{uri!r} is not a local file: URI", field="uri")
    folder = Path(unquote(parts.path)).resolve()
    if not any(folder.is_relative_to(root.resolve()) for root in roots):
        raise Invalid(f"{uri!r} is not under an allowed folder", field="uri")
    return folder


def _check_files(folder: Path, manifest: WeightManifest) -> None:
    needed = {WEIGHTS_FILE} if manifest.base is None else ADAPTER_FILES
    if missing := sorted(needed - manifest.files.keys()):
        raise Invalid(f"the manifest does not list {', '.join(missing)}", field="files")
    for name, sha256 in manifest.files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder) or not path.is_file():
            raise Invalid("the folder has no such file", field=f"files.{name}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise Invalid(f"the file's SHA-256 is {found}", field=f"files.{name}")


async def resolve(conn: Connection, wanted: WantedWeights) -> str | PreceptorError:
    """The exact version that `wanted` selects now, or the error if there is none."""
    if wanted.mode == "latest":
        assert wanted.policy is not None, "checked when the wish was built"
        found = await weights.latest(conn, wanted.policy)
        return found or NotFound(f"no weights of policy {wanted.policy} are registered")
    version = wanted.version
    assert version is not None, "checked when the wish was built"
    if wanted.mode == "exact":
        if await weights.known(conn, version):
            return version
        return NotFound(f"weights {version} are not registered")
    policy, lineage, step = version.split("/")
    found = await weights.newest_of_lineage(conn, policy, lineage, int(step))
    return found or NotFound(f"no weights at or after {version} are registered")
