"""Models and data sets by their names on the hub: `ORG/NAME`, or `ORG/NAME@REVISION`."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

_NAME: Final = re.compile(r"(?P<repo>[\w-][\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_MODEL_FILES: Final = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
# Weights in folders or under this name are those of `model.safetensors` in another form.
_TWICE: Final = ["*/*", "consolidated*.safetensors"]


class HubName(NamedTuple):
    """What a repository of the hub is called."""

    repo: str
    revision: str | None
    """A branch, tag or commit; the main branch where absent."""


def hub_name(text: str) -> HubName | None:
    """The name in `text`; None where it cannot be one."""
    found = _NAME.fullmatch(text)
    return None if found is None else HubName(found["repo"], found["revision"])


def at_commit(text: str, fetched: Path) -> str:
    """The name in `text` with the commit that `fetch_model` once put into the folder `fetched`.

    `text` itself where the folder is none of that repository.
    """
    name = hub_name(text)
    if name is None or fetched.parent.parent.name != f"models--{name.repo.replace('/', '--')}":
        return text
    return f"{name.repo}@{fetched.name}"


def fetch_model(text: str) -> Path:
    """The folder of a model of the hub, fetched once for each commit.

    Raises:
        ValueError: the hub has no such model, or cannot be reached.
    """
    name = hub_name(text)
    if name is None:
        raise ValueError(f"{text}: there is no such folder")
    # Imported here: it is slow, and needed for names of the hub alone.
    library = cast("Any", importlib.import_module("huggingface_hub"))
    try:
        found: str = library.snapshot_download(
            name.repo,
            revision=name.revision,
            allow_patterns=_MODEL_FILES,
            ignore_patterns=_TWICE,
        )
    except Exception as error:  # the library raises many kinds, network errors among them
        raise ValueError(f"{text}: is no folder here, and {_why(name, error)}") from error
    return Path(found)


def _why(name: HubName, error: Exception) -> str:
    errors = cast("Any", importlib.import_module("huggingface_hub.errors"))
    where: str = cast("Any", importlib.import_module("huggingface_hub.constants")).ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return f"{where} gives it to those alone who accepted its terms and ran `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{where} has no such model; a private one needs `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where} has no revision {name.revision!r} of {name.repo}"
    last = str(error).strip().splitlines() or [type(error).__name__]
    return f"could not be fetched from {where}: {last[0]}"
