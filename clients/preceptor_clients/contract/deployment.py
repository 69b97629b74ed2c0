"""A deployment: what `preceptor.toml` may hold, as a schema.

Gateway, dispatcher and supervisor read it, trainer and tools write it; none of them knows its keys
in another way. `to_toml` writes one, `parse_deployment` reads one:

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

Services stand in one section per role. Unknown keys are refused. Secrets stay in files of their
own, so that this one can be shown.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, cast

import tomli_w
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from preceptor_clients.contract.errors import from_validation
from preceptor_clients.contract.schemas import Name, ServiceRole
from preceptor_clients.contract.sections import Section

Scope = Literal["trainer", "dispatcher", "expert", "reader", "admin"]
EMBEDDED: Final = "embedded"
"""As `broker`: the supervisor starts one of its own."""
SECTIONS: Final[Mapping[ServiceRole, str]] = {"expert": "experts", "source": "sources"}
"""Where the services of each role stand."""
_SQLITE: Final = "sqlite+aiosqlite:///"
_MODEL: Final = ("model", "weights_roots")
_REMOTE: Final = ("tokenizer", "key_file")
PATH_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "preceptor_clients.vllm_expert.service:VLLMExpert": _MODEL,
    "preceptor_services.corrections.people_expert:PeopleExpert": ("model", "config", "key_file"),
    "preceptor_services.experts.larger_model:LargerModel": ("model",),
    "preceptor_services.experts.self_teacher:SelfTeacher": _MODEL,
    "preceptor_services.experts.remote.aligned.aligning:Aligning": (*_REMOTE, "teacher_tokenizer"),
    "preceptor_services.experts.remote.scoring.openai_http:OpenAIServer": _REMOTE,
    "preceptor_services.experts.remote.drawing.sample_only:SampleOnly": _REMOTE,
    "preceptor_services.feedback.judge.source:Judge": ("key_file",),
}
"""The options of preceptor's own services that are paths, by `use`."""


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value))


AddressNetwork = Annotated[str, AfterValidator(_network)]
"""`10.1.0.0/16`, or one address."""


class DeployedGateway(Section):
    """`[gateway]`."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port to listen on; 0 lets the supervisor choose one."""
    database: str = "sqlite+aiosqlite:///preceptor.db"
    """SQLAlchemy URL of an async driver; a relative SQLite path is relative to the file."""
    database_password_file: Path | None = None
    """File with the password of the database user; the URL then contains none."""
    blobs: Path = Path("blobs")
    """Folder of the content-addressed store."""
    broker: str = "redis://127.0.0.1:6379/0"
    """URL of a Redis or Valkey server; `embedded` lets the supervisor start one."""
    broker_password_file: Path | None = None
    """File with the broker's password; the URL then contains none."""
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
    service_keys: Path = Path("keys/services")
    """Folder with the key files of services that are added at run time, and with nothing else."""
    allow_service_addresses: tuple[AddressNetwork, ...] = ("127.0.0.0/8", "::1/128")
    """Networks in which services that are added at run time may listen, beside public addresses."""

    @model_validator(mode="after")
    def _embedded_broker_has_no_password(self) -> Self:
        named = self.broker != EMBEDDED and "broker" in self.model_fields_set
        if self.broker_password_file is not None and not named:
            raise ValueError(
                "broker_password_file: is set, but the embedded broker has no password; set "
                "`broker` to the URL of your broker, or remove broker_password_file"
            )
        return self

    @property
    def url(self) -> str:
        """Where processes of the same machine reach the gateway."""
        everywhere = self.host in ("0.0.0.0", "::", "")
        return f"http://{'127.0.0.1' if everywhere else self.host}:{self.port}"


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class DeployedKey(Section):
    """`[keys.NAME]`: one caller of the gateway."""

    file: Path
    """Holds the token."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    """What the caller may do; `admin` may do everything."""
    service: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)] = ()
    """With the scope `expert`: the expert whose late answers it puts, or several experts."""
    expires: AwareDatetime | None = None
    """When it stops being valid, with its time zone: `2027-01-01T00:00:00Z`."""
    max_requests_per_s: Annotated[float, Field(gt=0)] | None = None
    """Most requests a second at one gateway process; bursts of one second's worth are let pass."""
    max_tokens_in_flight: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of its unanswered questions, prompts included, at all gateways together."""
    sign_in_file: Path | None = None
    """What `preceptor deploy keys` writes for Prometheus's `--web.config.file`: who has the key
    signs in there with the key's name, and the key as the password. Not with `expires`."""

    @model_validator(mode="after")
    def _bound(self) -> Self:
        if ("expert" in self.scopes) != bool(self.service):
            raise ValueError(
                'service: a key of scope `expert`, and no other, names its expert: service = "NAME"'
            )
        if self.sign_in_file is not None and self.expires is not None:
            raise ValueError(
                "sign_in_file: not together with expires, which Prometheus does not know; rotate "
                "the key instead"
            )
        return self


class DeployedService(Section):
    """`[experts.NAME]` or `[sources.NAME]`."""

    url: str
    """Where it listens; the supervisor chooses a port in the place of 0."""
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


class RoleService(NamedTuple):
    """A service of a deployment, with where it stands."""

    role: ServiceRole
    name: str
    service: DeployedService


class Deployment(Section):
    """The whole file."""

    gateway: DeployedGateway = DeployedGateway()
    """The gateway itself."""
    keys: dict[Name, DeployedKey] = Field(default_factory=dict)
    """Who may call the gateway."""
    experts: dict[Name, DeployedService] = Field(default_factory=dict)
    """Experts by name."""
    sources: dict[Name, DeployedService] = Field(default_factory=dict)
    """Feedback sources by name."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        # Streams, tickets and answers know a service by its name alone.
        roles: dict[str, ServiceRole] = {}
        for role, name, _ in self.services():
            if name in roles:
                raise ValueError(
                    f"{SECTIONS[role]}: {name!r} stands in [{SECTIONS[roles[name]]}] too; "
                    "a name belongs to one service"
                )
            roles[name] = role
        return self

    def services(self) -> Iterator[RoleService]:
        """Every service, role by role."""
        for role, section in SECTIONS.items():
            named = cast("dict[str, DeployedService]", getattr(self, section))
            for name, service in named.items():
                yield RoleService(role, name, service)

    def with_services(self, services: Mapping[str, DeployedService]) -> Self:
        """The same with these in the places of those that have their names."""
        sections = {
            section: {
                name: services.get(name, service)
                for name, service in cast(
                    "dict[str, DeployedService]", getattr(self, section)
                ).items()
            }
            for section in SECTIONS.values()
        }
        return self.model_copy(update=sections)

    def key_for(self, scope: Scope, service: str | None = None) -> Path:
        """File of the first key that has `scope`, and is bound to `service` where it is given."""
        for key in self.keys.values():
            if scope in key.scopes and (service is None or service in key.service):
                return key.file
        bound = "" if service is None else f" and service = {service!r}"
        raise ValueError(f"keys: none has the scope {scope!r}{bound}; add a [keys.NAME] with it")

    def anchored(self, folder: Path) -> Self:
        """The same with every relative path as one in `folder`."""
        g = self.gateway
        gateway = g.model_copy(
            update={
                "database": _anchored_database(g.database, folder),
                "blobs": folder / g.blobs,
                "weights_roots": tuple(folder / root for root in g.weights_roots),
                "hash_key_file": folder / g.hash_key_file,
                "database_password_file": _anchored_file(g.database_password_file, folder),
                "broker_password_file": _anchored_file(g.broker_password_file, folder),
                "service_keys": folder / g.service_keys,
            }
        )
        keys = {name: _anchored_key(key, folder) for name, key in self.keys.items()}
        services = {name: _anchored_service(s, folder) for _, name, s in self.services()}
        anchored = self.with_services(services)
        return anchored.model_copy(update={"gateway": gateway, "keys": keys})


def _anchored_key(key: DeployedKey, folder: Path) -> DeployedKey:
    files = {
        "file": folder / key.file,
        "sign_in_file": _anchored_file(key.sign_in_file, folder),
    }
    return key.model_copy(update=files)


def local_service(name: str, use: str, options: Mapping[str, Any] | None = None) -> DeployedService:
    """A service that the supervisor starts on this machine, at a port of its choice.

    Args:
        name: What the deployment calls it; its key file is named after it.
        use: `module:Class`.
        options: Keyword arguments of that class, JSON values.
    """
    written: dict[str, Any] = {} if options is None else {"options": dict(options)}
    return DeployedService(
        url="http://127.0.0.1:0", key_file=Path("keys") / f"{name}.key", use=use, **written
    )


def local_key(scope: Scope, *, service: str | None = None) -> DeployedKey:
    """A key of one scope, in a file named after it; that of an expert names its `service`."""
    bound: dict[str, Any] = {} if service is None else {"service": (service,)}
    return DeployedKey(file=Path("keys") / f"{scope}.key", scopes=(scope,), **bound)


def parse_deployment(text: str, overrides: Mapping[str, str] | None = None) -> Deployment:
    """The deployment that TOML text describes; paths are as they are written.

    Args:
        text: TOML.
        overrides: Keys of `[gateway]` that win over the text.

    Raises:
        ValueError: it is not TOML, or a field is unknown, missing or wrong; each is named.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}") from None
    if overrides:
        raw["gateway"] = {**raw.get("gateway", {}), **overrides}
    try:
        return Deployment.model_validate(raw)
    except ValidationError as error:
        raise ValueError(from_validation(error).detail) from None


def to_toml(deployment: Deployment, *, comment: str = "", defaults: bool = False) -> str:
    """The deployment as TOML text.

    Args:
        deployment: Only values that TOML has words for: no null inside a list of options.
        comment: Put above it, a `#` before each line.
        defaults: Whether what was left at its default is written too.

    Raises:
        ValueError: an option holds a null in a list.
    """
    table = deployment.model_dump(mode="json", exclude_none=True, exclude_unset=not defaults)
    try:
        text = tomli_w.dumps(table)
    except TypeError as error:
        raise ValueError(f"options: {error}") from None
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text


def _anchored_service(service: DeployedService, folder: Path) -> DeployedService:
    update: dict[str, Any] = {"key_file": folder / service.key_file}
    if service.known is not None:
        update["known"] = folder / service.known
    paths = PATH_OPTIONS.get(service.use or "", ())
    anchored = {n: _anchored_option(v, folder) for n, v in service.options.items() if n in paths}
    if anchored:
        update["options"] = {**service.options, **anchored}
    return service.model_copy(update=update)


def _anchored_option(value: JsonValue, folder: Path) -> JsonValue:
    if isinstance(value, str):
        return str(folder / value)
    if isinstance(value, list):
        return [_anchored_option(each, folder) for each in value]
    return value


def _anchored_file(path: Path | None, folder: Path) -> Path | None:
    return None if path is None else folder / path


def _anchored_database(url: str, folder: Path) -> str:
    if not url.startswith(_SQLITE):
        return url
    return _SQLITE + str(folder / url.removeprefix(_SQLITE))
