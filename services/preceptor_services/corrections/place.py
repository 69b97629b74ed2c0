"""Address and key of the gateway for the commands of the correction queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TypeVar

import typer

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.http.corrections import CorrectionsClient
from preceptor_services.kit.settings import find_settings, load_settings, read_secret

PAGE: Final = "/corrections/"
_T = TypeVar("_T")

RunDir = Annotated[Path | None, typer.Option(help="Folder of a deployment, with its TOML file.")]
Url = Annotated[str | None, typer.Option(help="Address of a running gateway; needs --key-file.")]
KeyFile = Annotated[Path | None, typer.Option(help="File with a key of scope `admin`.")]


class Place(NamedTuple):
    """A gateway, and a key of scope `admin`."""

    url: str
    key: str

    @property
    def page(self) -> str:
        """Address of the page where people sign in."""
        return self.url.rstrip("/") + PAGE


def find_place(run_dir: Path | None, url: str | None, key_file: Path | None) -> Place:
    """The gateway and key that the options name.

    Raises:
        ValueError: only one of `url` and `key_file` is given, or the settings have no admin's key.
    """
    if (url is None) != (key_file is None):
        missing = "url" if url is None else "key-file"
        raise ValueError(f"{missing}: is missing; --url and --key-file must be given together")
    if url is not None and key_file is not None:
        return Place(url, read_secret(key_file))
    settings = load_settings(find_settings(run_dir or Path()))
    return Place(settings.gateway.url, read_secret(settings.key_for("admin")))


def do(
    run_dir: Path | None,
    url: str | None,
    key_file: Path | None,
    work: Callable[[CorrectionsClient], Awaitable[_T]],
) -> _T:
    """Does `work` with a client of the gateway; an error ends the command with its message."""
    return at(place_or_exit(run_dir, url, key_file), work)


def place_or_exit(run_dir: Path | None, url: str | None, key_file: Path | None) -> Place:
    """`find_place`; an error ends the command with its message."""
    try:
        return find_place(run_dir, url, key_file)
    except (OSError, ValueError) as error:
        raise _said(error) from None


def at(place: Place, work: Callable[[CorrectionsClient], Awaitable[_T]]) -> _T:
    """`at_gateway` for a place that was found already."""

    async def within() -> _T:
        async with CorrectionsClient(place.url, place.key) as client:
            return await work(client)

    try:
        return asyncio.run(within())
    except (PreceptorError, OSError, ValueError) as error:
        raise _said(error) from None


def _said(error: Exception) -> typer.Exit:
    typer.echo(f"preceptor corrections: {error}", err=True)
    return typer.Exit(1)
