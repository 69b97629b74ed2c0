"""Experts: write a new one, serve it, check any that speaks the contract."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from preceptor_clients import openapi
from preceptor_clients.cli import fail_with, read_key, serve
from preceptor_clients.conformance.known import KnownAnswers, load_known
from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.errors import PreceptorError, from_validation
from preceptor_clients.new_expert import write_expert
from preceptor_clients.schemas import WeightsOffer

app = typer.Typer(help=__doc__, no_args_is_help=True)
app.command("serve")(serve)


@app.command("new")
def new_expert(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where to write; a new folder of that name by default.")
    ] = None,
    port: Annotated[int, typer.Option(help="Where the service will listen.")] = 8101,
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
        Path | None, typer.Option(help="JSON file of known answers; see docs/plug-in-an-expert.md.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="JSON file (WeightsOffer) of versions that it may load.")
    ] = None,
    vocab_fingerprint: Annotated[
        str | None, typer.Option(help="The vocabulary that it should have.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference, in nats, of what should be equal.")
    ] = 0.15,
    max_tokens: Annotated[int, typer.Option(help="Longest context that is asked.")] = 4096,
    timeout: Annotated[float, typer.Option(help="Deadline of one call, in seconds.")] = 60.0,
    only: Annotated[list[str] | None, typer.Option(help="Make this check alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Checks the expert at URL; exits with 1 where a check failed, 2 where nothing answers."""
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
        raise fail_with(f"{url} is no expert that can be checked: {error.detail}") from None
    typer.echo(report.as_json() if as_json else report.as_text())
    if not report.ok:
        raise typer.Exit(1)


@app.command("openapi")
def print_openapi() -> None:
    """Prints the OpenAPI document that an expert in any language is written from."""
    typer.echo(openapi.as_text(), nl=False)


def _known(path: Path | None) -> KnownAnswers | None:
    return None if path is None else load_known(path)


def _weights(path: Path | None) -> WeightsOffer | None:
    if path is None:
        return None
    try:
        return WeightsOffer.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ValueError(f"weights: {path}: {from_validation(error).detail}") from None
