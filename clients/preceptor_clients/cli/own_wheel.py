"""A wheel of the installed preceptor, for images that install it without a registry.

It is made from the packages as they are imported and from their installed metadata, so it needs no
build tool, and is the same for a source tree as for an installed release.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("preceptor_clients", "preceptor_services", "preceptor_trainer")
_LEFT_OUT: Final = ("INSTALLER", "RECORD", "REQUESTED", "WHEEL", "direct_url.json")
"""Files that an installer wrote, and files that are written anew."""
_WHEEL: Final = (
    "Wheel-Version: 1.0\nGenerator: preceptor\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)
_DAY_ONE: Final = (1980, 1, 1, 0, 0, 0)
"""A fixed date, so that equal sources give equal wheels."""


def write_own_wheel(folder: Path) -> Path:
    """Writes the wheel into `folder`, which is created if it is missing; returns its path."""
    own = distribution("preceptor")
    stem = f"preceptor-{own.version}"
    path = folder / f"{stem}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    record: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in (*_modules(), *_metadata(own, stem)):
            wheel.writestr(zipfile.ZipInfo(name, _DAY_ONE), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            record.append(f"{name},sha256={digest.decode()},{len(content)}")
        record.append(f"{stem}.dist-info/RECORD,,")
        wheel.writestr(
            zipfile.ZipInfo(f"{stem}.dist-info/RECORD", _DAY_ONE), "\n".join(record) + "\n"
        )
    return path


def _modules() -> Iterator[tuple[str, bytes]]:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec is not None else ():
            for file in sorted(Path(root).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    yield f"{package}/{file.relative_to(root).as_posix()}", file.read_bytes()


def _metadata(own: Distribution, stem: str) -> Iterator[tuple[str, bytes]]:
    yield f"{stem}.dist-info/WHEEL", _WHEEL.encode()
    for file in own.files or ():
        inside = file.as_posix().partition(".dist-info/")[2]
        if inside and inside not in _LEFT_OUT:
            yield f"{stem}.dist-info/{inside}", Path(str(file.locate())).read_bytes()
