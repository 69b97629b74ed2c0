"""Where a command finds the gateway: the options, else the settings of a deployment's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from preceptor_clients.contract.deployment import Deployment, Scope
from preceptor_services.kit.settings import find_settings, load_settings, read_secret

Config = Annotated[
    Path | None,
    typer.Option(help="The deployment's TOML file; default: that of this folder or above it."),
]
Url = Annotated[
    str | None, typer.Option(help="URL of the gateway; default: the one of the settings.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="File with a key of scope reader; default: the one of the settings."),
]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A gateway and the key to ask it with."""

    url: str
    key: str
    settings: Deployment | None
    """None if only the gateway's URL and a key are known."""


def find_place(config: Path | None, url: str | None, key_file: Path | None) -> Place:
    """The gateway that the options name.

    Raises:
        ValueError: there are no settings and not both other options, or a file is not valid.
        OSError: a file cannot be read.
    """
    settings = None
    if config is not None or url is None or key_file is None:
        settings = load_settings(config or find_settings(Path()))
    if settings is not None:
        url = url or settings.gateway.url
        key_file = key_file or reading_key(settings)
    assert url is not None
    assert key_file is not None
    return Place(url=url, key=read_secret(key_file), settings=settings)


def reading_key(settings: Deployment) -> Path:
    """File of a key that may read metrics and runs.

    Raises:
        ValueError: the settings have none.
    """
    scopes: tuple[Scope, ...] = ("reader", "admin")
    for scope in scopes:
        for key in settings.keys.values():
            if scope in key.scopes:
                return key.file
    raise ValueError("keys: none has the scope reader or admin; add a [keys.reader] with it")
