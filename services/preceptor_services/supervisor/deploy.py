"""A deployment in parts, one process each, as containers want it; `preceptor up` is one machine's.

    preceptor deploy keys        # once, before everything else
    preceptor deploy migrate     # once, when the database answers
    preceptor deploy serve NAME  # an expert or a source of the settings

Gateway and dispatchers have commands of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from preceptor_clients.cli.main import fail_with, serve_class
from preceptor_clients.contract.deployment import DeployedService, Deployment
from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_clients.kit.files import make_key_file
from preceptor_clients.kit.logs import log_to_stderr
from preceptor_services.kit.settings import database_url, load_settings
from preceptor_services.store.database import Database

_log = logging.getLogger("preceptor.deploy")
_SHARED = 0o640

app = typer.Typer(
    help="A deployment whose parts run by themselves: keys, tables, services.",
    no_args_is_help=True,
)
Config = Annotated[Path, typer.Option(help="The deployment's TOML file.")]
_DEFAULT = Path("preceptor.toml")


@app.command("keys")
def make_keys(config: Config = _DEFAULT) -> None:
    """Makes every key and password that the settings name a file for, unless the file is there."""
    log_to_stderr()
    with _said_plainly():
        settings = load_settings(config)
        for path in key_files(settings):
            make_key_file(path)
        for path in password_files(settings):
            make_key_file(path)
            # Broker and database run as users of their own, which share the folder's group.
            path.chmod(_SHARED)
    _log.info("every key is there")


@app.command("migrate")
def migrate(config: Config = _DEFAULT) -> None:
    """Brings the tables of the database up to date."""
    log_to_stderr()
    with _said_plainly():
        asyncio.run(_migrate(database_url(load_settings(config).gateway)))
    _log.info("the tables are up to date")


@app.command("serve")
def serve(
    name: Annotated[str, typer.Argument(help="Of an expert or a source of the settings.")],
    config: Config = _DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
) -> None:
    """Serves one of the deployment's services, with its class, options, key and port."""
    with _said_plainly():
        service = service_named(load_settings(config), name)
        port = urlsplit(service.url).port
        if service.use is None or not port:
            raise ValueError(f"{name}: needs `use`, and a port in `url`, to be served from here")
    serve_class(service.use, service.options, host=host, port=port, key_file=service.key_file)


def key_files(settings: Deployment) -> Iterator[Path]:
    """Files of the keys that gateway and services know each other by."""
    yield settings.gateway.hash_key_file
    yield from (key.file for key in settings.keys.values())
    yield from (service.key_file for _, _, service in settings.services())


def password_files(settings: Deployment) -> Iterator[Path]:
    """Files of the passwords of broker and database."""
    gateway = settings.gateway
    for path in (gateway.database_password_file, gateway.broker_password_file):
        if path is not None:
            yield path


def service_named(settings: Deployment, name: str) -> DeployedService:
    """The expert or source of that name.

    Raises:
        ValueError: there is none; it names those there are.
    """
    services = {known: service for _, known, service in settings.services()}
    if name not in services:
        raise ValueError(f"{name}: is no service of the settings; there are {', '.join(services)}")
    return services[name]


async def _migrate(url: str) -> None:
    database = Database.open(url)
    try:
        await database.migrate()
    finally:
        await database.aclose()


@contextmanager
def _said_plainly() -> Generator[None]:
    try:
        yield
    except (OSError, ValueError, ServiceUnavailable) as error:
        raise fail_with(str(error)) from None
