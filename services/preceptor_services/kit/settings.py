"""Reads the deployment's TOML file (`preceptor_clients.contract.deployment`) and its secrets.

PRECEPTOR_DATABASE and PRECEPTOR_BROKER in the environment override the file. Relative paths, also
in a service's options, are relative to the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from preceptor_clients.contract.deployment import DeployedGateway, Deployment, parse_deployment
from preceptor_clients.kit.files import read_key_file

DATABASE_ENV: Final = "PRECEPTOR_DATABASE"
BROKER_ENV: Final = "PRECEPTOR_BROKER"


def load_settings(path: Path, env: Mapping[str, str] = os.environ) -> Deployment:
    """Reads and checks the file at `path`; the environment may override database and broker.

    Raises:
        ValueError: it is not TOML, or a field is unknown, missing or wrong; each is named.
    """
    overrides = {
        name: env[variable]
        for name, variable in (("database", DATABASE_ENV), ("broker", BROKER_ENV))
        if variable in env
    }
    try:
        deployment = parse_deployment(path.read_text(encoding="utf-8-sig"), overrides)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return deployment.anchored(path.resolve().parent)


def find_settings(folder: Path) -> Path:
    """The settings file of the deployment in `folder`, or in the nearest folder above it.

    The folder of a training run is below that of its deployment. `resolved.toml`, written by
    `preceptor up`, has the chosen ports and is preferred.

    Raises:
        ValueError: there is no such file; the message names the folder and the options to give.
    """
    whole = folder.resolve()
    for place in (whole, *whole.parents):
        for name in ("resolved.toml", "preceptor.toml"):
            if (place / name).is_file():
                return place / name
    raise ValueError(
        f"run-dir: neither {whole} nor a folder above it has resolved.toml or preceptor.toml; "
        "give --run-dir FOLDER, or --url and --key-file"
    )


def read_secret(path: Path) -> str:
    """The token in a key file."""
    token = read_key_file(path)
    if len(token) < 32:
        raise ValueError(f"{path}: holds {len(token)} characters; a key has at least 32")
    return token


def database_url(gateway: DeployedGateway) -> str:
    """URL of the database, including the password from its file. Never log it.

    Raises:
        ValueError: the URL contains a password although a password file is set.
    """
    return _with_password("database", gateway.database, gateway.database_password_file)


def broker_url(gateway: DeployedGateway) -> str:
    """URL of the broker, including the password from its file. Never log it.

    Raises:
        ValueError: the URL contains a password although a password file is set.
    """
    return _with_password("broker", gateway.broker, gateway.broker_password_file)


def _with_password(field: str, url: str, file: Path | None) -> str:
    if file is None:
        return url
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError(
            f"gateway.{field}: the URL contains a password although {field}_password_file is set; "
            "remove it from the URL"
        )
    place = parts.netloc.rpartition("@")[2]
    login = f"{parts.username or ''}:{quote(read_key_file(file), safe='')}"
    return parts._replace(netloc=f"{login}@{place}").geturl()
