"""The deployment's settings: one TOML file that gateway, dispatcher and supervisor read.

    [gateway]
    port = 8080
    database = "sqlite+aiosqlite:///preceptor.db"   # or postgresql+asyncpg://...
    broker = "redis://127.0.0.1:6379/0"
    [keys.trainer]
    file = "keys/trainer.key"
    scopes = ["trainer"]
    [experts.teacher]
    url = "http://127.0.0.1:8101"
    key_file = "keys/teacher.key"
    use = "preceptor_services.experts.mine:Mine"     # optional: the supervisor starts the process
    [experts.teacher.options]
    [sources.executor]
    url = "http://127.0.0.1:8102"
    key_file = "keys/executor.key"

PRECEPTOR_DATABASE and PRECEPTOR_BROKER in the environment win over the file. Relative paths are
relative to the file. Unknown keys are refused. Secrets stay in files of their own, so that this one
can be shown.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from preceptor_clients.contract.errors import from_validation
from preceptor_clients.contract.schemas import Name

Scope = Literal["trainer", "dispatcher", "expert", "reader", "admin"]
DATABASE_ENV: Final = "PRECEPTOR_DATABASE"
BROKER_ENV: Final = "PRECEPTOR_BROKER"
_SQLITE: Final = "sqlite+aiosqlite:///"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GatewaySettings(_Settings):
    """`[gateway]`."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port to listen on."""
    database: str = "sqlite+aiosqlite:///preceptor.db"
    """SQLAlchemy URL of an async driver; a relative SQLite path is relative to the file."""
    blobs: Path = Path("blobs")
    """Folder of the content-addressed store."""
    broker: str = "redis://127.0.0.1:6379/0"
    """URL of a Redis or Valkey server."""
    weights_roots: tuple[Path, ...] = (Path("weights"),)
    """Folders under which weights may lie; everything else is refused."""
    hash_key_file: Path = Path("keys/hash.key")
    """Secret with which API keys are hashed."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    """A larger request, before or after decompression, is refused."""
    max_queue: Annotated[int, Field(ge=1)] = 10_000
    """Unfinished jobs per service; beyond it callers are told to come back later."""
    canary_every_s: Annotated[float, Field(gt=0)] = 300.0
    """How often experts with `known` answers are asked them."""


class KeySettings(_Settings):
    """`[keys.NAME]`: one caller of the gateway."""

    file: Path
    """Holds the token."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    """What the caller may do; `admin` may do everything."""


class ServiceSettings(_Settings):
    """`[experts.NAME]` or `[sources.NAME]`."""

    url: str
    """Where it listens."""
    key_file: Path
    """Holds the token that it asks of us."""
    cost: Annotated[float, Field(ge=0)] = 0.0
    """Price of one answer where the answer names none."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """Of its jobs where the query leaves the default; 0 is first."""
    use: str | None = None
    """`module:Class`; the supervisor then starts the process itself."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of that class."""
    self_test: bool = True
    """Whether the gateway asks a new version questions of its own before anybody else may."""
    known: Path | None = None
    """JSON file of known answers, asked now and then; see docs/how-to/plug-in-an-expert.md."""


class Settings(_Settings):
    """The whole file."""

    gateway: GatewaySettings = GatewaySettings()
    """The gateway itself."""
    keys: dict[Name, KeySettings] = Field(default_factory=dict)
    """Who may call the gateway."""
    experts: dict[Name, ServiceSettings] = Field(default_factory=dict)
    """Experts by name."""
    sources: dict[Name, ServiceSettings] = Field(default_factory=dict)
    """Feedback sources by name."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        # Streams, tickets and answers know a service by its name alone.
        both = sorted(self.experts.keys() & self.sources.keys())
        if both:
            raise ValueError(f"sources: {both} name experts too")
        return self

    def key_for(self, scope: Scope) -> Path:
        """File of the first key that has `scope`."""
        for key in self.keys.values():
            if scope in key.scopes:
                return key.file
        raise ValueError(f"keys: none has the scope {scope!r}")


def load_settings(path: Path, env: Mapping[str, str] = os.environ) -> Settings:
    """Reads and checks the file at `path`; the environment may override database and broker.

    Raises:
        ValueError: it is not TOML, or a field is unknown, missing or wrong; each is named.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: is not TOML: {error}") from None
    gateway = raw.setdefault("gateway", {})
    for name, variable in (("database", DATABASE_ENV), ("broker", BROKER_ENV)):
        if variable in env:
            gateway[name] = env[variable]
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{path}: {from_validation(error).detail}") from None
    return _anchored(settings, path.resolve().parent)


def read_secret(path: Path) -> str:
    """The token in a key file."""
    token = path.read_text().strip()
    if len(token) < 32:
        raise ValueError(f"{path}: holds {len(token)} characters; a key has at least 32")
    return token


def _anchored(settings: Settings, folder: Path) -> Settings:
    g = settings.gateway
    gateway = g.model_copy(
        update={
            "database": _anchored_database(g.database, folder),
            "blobs": folder / g.blobs,
            "weights_roots": tuple(folder / root for root in g.weights_roots),
            "hash_key_file": folder / g.hash_key_file,
        }
    )
    keys = {n: k.model_copy(update={"file": folder / k.file}) for n, k in settings.keys.items()}
    return settings.model_copy(
        update={
            "gateway": gateway,
            "keys": keys,
            "experts": _anchored_services(settings.experts, folder),
            "sources": _anchored_services(settings.sources, folder),
        }
    )


def _anchored_services(services: dict[str, ServiceSettings], folder: Path) -> dict[str, Any]:
    return {
        name: service.model_copy(
            update={
                "key_file": folder / service.key_file,
                "known": None if service.known is None else folder / service.known,
            }
        )
        for name, service in services.items()
    }


def _anchored_database(url: str, folder: Path) -> str:
    if not url.startswith(_SQLITE):
        return url
    return _SQLITE + str(folder / url.removeprefix(_SQLITE))
