"""`preceptor expert new`: a folder with a working expert in it, to be changed from there."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined

_TEMPLATES: Final = "expert_template"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def write_expert(name: str, folder: Path, port: int) -> list[Path]:
    """Writes a service called `name` into `folder`, which may not hold anything yet.

    Args:
        name: Lower-case words joined by hyphens or underscores; module and class are named after
            it.
        folder: Made where it is missing.
        port: Where the service will listen.

    Returns:
        The files written.

    Raises:
        ValueError: the name is no such name, or the folder holds something.
    """
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise ValueError(f"name: {name!r} is not lower-case words joined by hyphens")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"folder: {folder} is not empty")
    module = name.replace("-", "_")
    values = {
        "name": name,
        "module": module,
        "class_name": "".join(word.capitalize() for word in module.split("_")),
        "port": port,
        "preceptor_version": version("preceptor"),
    }
    renderer = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    folder.mkdir(parents=True, exist_ok=True)
    written = list[Path]()
    for source in sorted(files("preceptor_clients.cli").joinpath(_TEMPLATES).iterdir(), key=str):
        if not source.name.endswith(".jinja"):
            continue
        target = folder / source.name.removesuffix(".jinja").replace("MODULE", module)
        target.write_text(renderer.from_string(source.read_text()).render(values))
        written.append(target)
    return written
