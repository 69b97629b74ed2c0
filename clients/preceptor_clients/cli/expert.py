"""Experts: create one, serve it, check any service that implements the contract."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from preceptor_clients.cli.main import fail_with, read_key, serve
from preceptor_clients.cli.new_expert import write_expert
from preceptor_clients.cli.own_wheel import write_own_wheel
from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.errors import PreceptorError, from_validation
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.known import KnownAnswers, load_known
from preceptor_clients.contract.listings import Quarantine, QuarantinedTarget
from preceptor_clients.contract.schemas import Services, ServiceStatus, WeightsOffer
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.registration import NewService, add_service
from preceptor_clients.kit.files import make_key_file
from preceptor_clients.sdk import openapi

_T = TypeVar("_T")

app = typer.Typer(help=__doc__, no_args_is_help=True)
app.command("serve")(serve)


@app.command("new")
def new_expert(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder to write into; by default a new folder of that name."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port that the service will listen on.")] = 8101,
) -> None:
    """Writes a working expert: class, TOML, Dockerfile, compose block, test."""
    target = Path(name) if folder is None else folder
    try:
        written = write_expert(name, target, port)
    except ValueError as error:
        raise fail_with(str(error)) from None
    for path in written:
        typer.echo(path)
    module = name.replace("-", "_")
    use = f"{module}:{''.join(word.capitalize() for word in module.split('_'))}"
    typer.echo(
        f"\ncd {target} && preceptor expert serve {use} --port {port}\n"
        f"preceptor expert check http://127.0.0.1:{port}"
    )


@app.command("check")
def check(
    url: Annotated[str, typer.Argument(help="Address of the service.")],
    key_file: Annotated[Path | None, typer.Option(help="File with the service's key.")] = None,
    known: Annotated[
        Path | None,
        typer.Option(help="JSON file of known answers; see docs/how-to/plug-in-an-expert.md."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="JSON file (WeightsOffer) of versions that it may load.")
    ] = None,
    vocab_fingerprint: Annotated[
        str | None, typer.Option(help="Fingerprint of the vocabulary that it should have.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(help="Largest difference, in nats, between values that should be equal."),
    ] = 0.15,
    max_tokens: Annotated[int, typer.Option(help="Longest context that the checks send.")] = 4096,
    timeout: Annotated[float, typer.Option(help="Deadline of one call, in seconds.")] = 60.0,
    only: Annotated[list[str] | None, typer.Option(help="Run only this check.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Checks the expert at URL; exits with 1 if a check failed, 2 if it cannot be checked."""
    try:
        options = CheckOptions(
            key=None if key_file is None else read_key(key_file),
            known=_known(known),
            weights=_weights(weights),
            vocab_fingerprint=vocab_fingerprint,
            tolerance=tolerance,
            max_tokens=max_tokens,
            timeout_s=timeout,
        )
        report = asyncio.run(check_expert(url, options, only=only or ()))
    except (ValueError, OSError) as error:
        raise fail_with(str(error)) from None
    except PreceptorError as error:
        raise fail_with(f"{url} cannot be checked as an expert: {error.detail}") from None
    typer.echo(report.as_json() if as_json else report.as_text())
    if not report.ok:
        raise typer.Exit(1)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the service in the deployment.")],
    url: Annotated[str, typer.Argument(help="Address at which the gateway reaches the service.")],
    gateway: Annotated[str, typer.Option(help="Address of the gateway.")],
    key_file: Annotated[Path, typer.Option(help="File with a gateway's key of scope `admin`.")],
    service_key: Annotated[
        str | None,
        typer.Option(
            help="Name of the file with the service's key in the gateway's folder `service_keys`; "
            "by default NAME.key."
        ),
    ] = None,
    cost: Annotated[float, typer.Option(help="Price of an answer that states no cost.")] = 0.0,
    known: Annotated[
        Path | None, typer.Option(help="JSON file of known answers, checked from time to time.")
    ] = None,
    self_test: Annotated[
        bool, typer.Option(help="Whether the gateway tests the service before it may be used.")
    ] = True,
    replaces: Annotated[
        bool, typer.Option("--replaces", help="Replace the service that was added under this name.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for its first answer.")] = 60.0,
) -> None:
    """Adds the expert at URL to a running gateway; exits with 1 if it is not ready."""
    try:
        new = NewService(
            name=name,
            url=url,
            key_file=service_key or f"{name}.key",
            cost=cost,
            self_test=self_test,
            known=_known(known),
            replaces=replaces,
        )
        status = asyncio.run(_add(gateway, read_key(key_file), new, wait))
    except ValidationError as error:
        raise fail_with(from_validation(error).detail) from None
    except (ValueError, OSError) as error:
        raise fail_with(str(error)) from None
    except PreceptorError as error:
        fields = "".join(f"{one.field}: " for one in error.errors[:1] if one.field)
        raise fail_with(f"{gateway} refused the service: {fields}{error.detail}") from None
    if status.state == "ready" and status.info is not None:
        typer.echo(f"{name} is ready, version {status.info.version}")
        return
    typer.echo(f"{name} is {status.state}: {status.detail}")
    raise typer.Exit(1)


async def _add(url: str, key: str, new: NewService, wait_s: float) -> ServiceStatus:
    async with GatewayClient(url, key) as gateway:
        return await add_service(gateway, new, wait_s=wait_s)


Gateway = Annotated[str, typer.Option(help="Address of the gateway.")]


@app.command("list")
def list_experts(
    gateway: Gateway,
    key_file: Annotated[Path, typer.Option(help="File with a gateway's key of any scope.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Prints every expert and source of a gateway, with its state and why it is not ready."""

    async def ask(client: GatewayClient) -> Services:
        return await client.experts()

    found = _at_gateway(gateway, key_file, ask)
    if as_json:
        typer.echo(found.model_dump_json(indent=1, exclude_none=True))
        return
    for one in found.services:
        version = "" if one.info is None else f", version {one.info.version}"
        why = "" if one.state == "ready" or one.detail is None else f": {one.detail}"
        typer.echo(f"{one.name} ({one.role}) is {one.state}{version}{why}")


@app.command("quarantine")
def list_quarantined(
    name: Annotated[str, typer.Argument(help="Name of the expert in the deployment.")],
    gateway: Gateway,
    key_file: Annotated[
        Path, typer.Option(help="File with a gateway's key of scope `reader` or `trainer`.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Prints the targets made of answers that an expert gave before it failed an inspection.

    They are the answers since the last inspection that it passed. Their steps may have trained on
    wrong numbers; `preceptor trace TARGET:POSITION` shows which steps consumed a target.
    """

    async def ask(client: GatewayClient) -> list[QuarantinedTarget]:
        return await client.quarantined(name)

    found = _at_gateway(gateway, key_file, ask)
    if as_json:
        typer.echo(Quarantine(targets=tuple(found)).model_dump_json(indent=1, exclude_none=True))
        return
    if found:
        table = Table("target", "rollout", box=SIMPLE)
        for one in found:
            table.add_row(Text(one.id), Text(one.rollout_id))
        # Ids are copied, so they are never broken over lines.
        Console(soft_wrap=True).print(table)
    typer.echo(f"{len(found)} targets of {name} are in quarantine")


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of the service in the deployment.")],
    gateway: Gateway,
    key_file: Annotated[Path, typer.Option(help="File with a gateway's key of scope `admin`.")],
) -> None:
    """Removes an expert that was added to a running gateway; open questions to it fail."""

    async def drop(client: GatewayClient) -> None:
        await client.remove_expert(name)

    _at_gateway(gateway, key_file, drop)
    typer.echo(f"{name} is removed")


def _at_gateway(url: str, key_file: Path, work: Callable[[GatewayClient], Awaitable[_T]]) -> _T:
    """Runs `work` with a client of the gateway; an error ends the command with its message."""

    async def within(key: str) -> _T:
        async with GatewayClient(url, key) as client:
            return await work(client)

    try:
        return asyncio.run(within(read_key(key_file)))
    except (ValueError, OSError) as error:
        raise fail_with(str(error)) from None
    except PreceptorError as error:
        raise fail_with(f"{url}: {error.detail}") from None


@app.command("key")
def key(
    file: Annotated[
        Path, typer.Argument(help="File to create, with its folder; an existing file is kept.")
    ],
) -> None:
    """Makes a file with a new key that only its owner can read; prints where it is."""
    is_new = not file.exists()
    try:
        make_key_file(file)
    except OSError as error:
        raise fail_with(str(error)) from None
    typer.echo(f"{file.resolve()} {'is new' if is_new else 'was there and is kept'}")


@app.command("wheel")
def wheel(
    folder: Annotated[Path, typer.Argument(help="Where to put it.")] = Path("wheels"),
) -> None:
    """Makes a wheel of the installed preceptor, for an image that installs it."""
    typer.echo(write_own_wheel(folder))


@app.command("vocabulary")
def vocabulary(
    folder: Annotated[Path, typer.Argument(help="Hugging Face folder with the tokenizer.")],
) -> None:
    """Prints size and fingerprint of a tokenizer's vocabulary, which experts declare."""
    if importlib.util.find_spec("transformers") is None:
        raise fail_with("`preceptor expert vocabulary` needs transformers")
    library: Any = importlib.import_module("transformers")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise fail_with(f"folder: {folder}: {error}") from None
    pieces: dict[str, int] = tokenizer.get_vocab()
    typer.echo(f"vocab_size = {1 + max(pieces.values())}")
    typer.echo(f'fingerprint = "{tokenizer_fingerprint(tokenizer)}"')


@app.command("openapi")
def print_openapi() -> None:
    """Prints the OpenAPI document of the expert contract, for experts in any language."""
    typer.echo(openapi.as_text(), nl=False)


def _known(path: Path | None) -> KnownAnswers | None:
    return None if path is None else load_known(path)


def _weights(path: Path | None) -> WeightsOffer | None:
    if path is None:
        return None
    try:
        return WeightsOffer.model_validate_json(path.read_text(encoding="utf-8-sig"))
    except ValidationError as error:
        raise ValueError(f"weights: {path}: {from_validation(error).detail}") from None
