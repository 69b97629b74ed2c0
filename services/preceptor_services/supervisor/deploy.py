"""Commands to deploy each part as a process of its own, for instance in containers.

    preceptor deploy keys        # once, first
    preceptor deploy migrate     # once, when the database is ready
    preceptor deploy serve NAME  # one expert or feedback source of the settings

`preceptor gateway` and `preceptor dispatcher` are the other parts. `preceptor up` starts all parts
on one machine instead.
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
from preceptor_services.registry.sign_in import write_sign_in
from preceptor_services.store.database import Database

_log = logging.getLogger("preceptor.deploy")
_SHARED = 0o640

app = typer.Typer(
    help="Commands to deploy each part as a process of its own: keys, tables, services.",
    no_args_is_help=True,
)
Config = Annotated[Path, typer.Option(help="The deployment's TOML file.")]
_DEFAULT = Path("preceptor.toml")


@app.command("keys")
def make_keys(config: Config = _DEFAULT) -> None:
    """Creates the key and password files of the settings that do not exist yet."""
    log_to_stderr()
    with _said_plainly():
        settings = load_settings(config)
        for path in key_files(settings):
            make_key_file(path)
        for path in password_files(settings):
            make_key_file(path)
            # Broker and database run as other users; in containers they are in this file's group.
            path.chmod(_SHARED)
        for name, key in settings.keys.items():
            write_sign_in(name, key)
    _log.info("all key and password files exist")


@app.command("migrate")
def migrate(config: Config = _DEFAULT) -> None:
    """Applies the migrations that the database does not have yet."""
    log_to_stderr()
    with _said_plainly():
        asyncio.run(_migrate(database_url(load_settings(config).gateway)))
    _log.info("the database has all migrations")


@app.command("serve")
def serve(
    name: Annotated[str, typer.Argument(help="Name of an expert or source of the settings.")],
    config: Config = _DEFAULT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
) -> None:
    """Serves an expert or feedback source with the class, options, key and port of the settings."""
    with _said_plainly():
        service = service_named(load_settings(config), name)
        port = urlsplit(service.url).port
        if service.use is None or not port:
            raise ValueError(f"{name}: set `use`, and a port in `url`, to serve it by this command")
    serve_class(service.use, service.options, host=host, port=port, key_file=service.key_file)


def key_files(settings: Deployment) -> Iterator[Path]:
    """Key files of the gateway, its callers and all services."""
    yield settings.gateway.hash_key_file
    yield from (key.file for key in settings.keys.values())
    yield from (service.key_file for _, _, service in settings.services())


def password_files(settings: Deployment) -> Iterator[Path]:
    """Password files of database and broker, if set."""
    gateway = settings.gateway
    for path in (gateway.database_password_file, gateway.broker_password_file):
        if path is not None:
            yield path


def service_named(settings: Deployment, name: str) -> DeployedService:
    """The expert or source called `name`.

    Raises:
        ValueError: the settings have none; the message lists those that exist.
    """
    services = {known: service for _, known, service in settings.services()}
    if name not in services:
        raise ValueError(f"{name}: the settings have no such service, only {', '.join(services)}")
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
