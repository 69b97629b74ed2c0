"""`preceptor expert new`: writes a folder with a working expert as a starting point."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined

from preceptor_clients.contract.deployment import Deployment, local_service, to_toml

_TEMPLATES: Final = "expert_template"
_ABOUT_SETTINGS: Final = """\
Put this into the deployment's preceptor.toml. With `use`, `preceptor up` starts the process
itself and makes the key. Without it, start the service yourself, by compose.yml or by
`preceptor expert serve {use} --port {port} --key-file keys/{name}.key`.
"""
_ABOUT_OPTIONS: Final = """\
# From the student's tokenizer, as `preceptor expert vocabulary FOLDER` prints them:
# vocab_size = 256
# fingerprint = "..."
"""
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def write_expert(name: str, folder: Path, port: int) -> list[Path]:
    """Writes a service called `name` into `folder`, which must be missing or empty.

    Args:
        name: Lower-case words joined by hyphens or underscores; module and class are named after
            it.
        folder: Created if it is missing.
        port: Port that the service will listen on.

    Returns:
        The files written.

    Raises:
        ValueError: the name is not of that form, or the folder is not empty.
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
    (folder / "build").chmod(0o755)
    settings = folder / "preceptor.toml"
    settings.write_text(_settings(name, f"{module}:{values['class_name']}", port))
    return sorted([*written, settings])


def _settings(name: str, use: str, port: int) -> str:
    """The block for a deployment's file."""
    service = local_service(name, use, {}).model_copy(update={"url": f"http://127.0.0.1:{port}"})
    comment = _ABOUT_SETTINGS.format(name=name, use=use, port=port)
    return to_toml(Deployment(experts={name: service}), comment=comment) + _ABOUT_OPTIONS
