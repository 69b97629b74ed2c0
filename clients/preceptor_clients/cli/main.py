"""The `preceptor` command.

Each package adds its sub-commands by entry points in the group `preceptor.commands`: the entry's
name is the command's, its value a `typer.Typer` or a function. An entry is imported only when its
command is asked for, so that `preceptor version` needs no torch; one whose package is missing
names the extra that brings it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.console import Console

from preceptor_clients.cli.options import typed_options
from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.kit.files import make_key_file, read_key_file
from preceptor_clients.kit.garbage import collect_rarely
from preceptor_clients.kit.logs import log_to_stderr
from preceptor_clients.kit.naming import load_named
from preceptor_clients.kit.tracing import start_tracing
from preceptor_clients.sdk.service import ExpertService, SourceService, service_app
from preceptor_clients.sdk.serving import http_protocol

GROUP: Final = "preceptor.commands"
_EXTRAS: Final = {
    "preceptor_services.experts": "services,model",
    "preceptor_services": "services",
    "preceptor_trainer": "trainer",
}
_errors = Console(stderr=True)
_log = logging.getLogger("preceptor.serve")

app = typer.Typer(
    name="preceptor",
    help="Train language models from rich feedback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line, with the sub-commands of every installed package."""
    # Trainer and experts share cores and work in turn: OpenMP threads that spin while they wait
    # would take the cores from the working process. Read once, when a library loads; child
    # processes inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = sys.argv[1:] if argv is None else argv
    asked = next((word for word in words if not word.startswith("-")), None)
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        add_command(app, entry, load=entry.name == asked)
    try:
        app(args=words, prog_name="preceptor")
    except (PreceptorError, OSError) as error:
        # Faults of a network, a disk or a given file: a traceback would not help the reader.
        _errors.print(f"preceptor {asked or ''}: {error}", markup=False, soft_wrap=True)
        raise SystemExit(1) from None


def add_command(to: typer.Typer, entry: EntryPoint, *, load: bool) -> None:
    """Adds one package's command; without `load` only its name and first line, for the help."""
    if not load:
        to.command(entry.name, help=_first_line(entry))(_not_loaded)
        return
    try:
        command = entry.load()
    except ModuleNotFoundError as error:
        to.command(entry.name)(_missing(entry, error))
        return
    if isinstance(command, typer.Typer):
        to.add_typer(command, name=entry.name)
    else:
        to.command(entry.name)(cast("Callable[..., Any]", command))


def _not_loaded() -> None:
    raise AssertionError("only listed in the help")


def _first_line(entry: EntryPoint) -> str:
    """First line of the command's docstring, read without importing its module."""
    try:
        spec = importlib.util.find_spec(entry.module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return f"(needs preceptor\\[{_extra(entry)}])"
    module = ast.parse(Path(spec.origin).read_text())
    functions = (node for node in module.body if isinstance(node, ast.FunctionDef))
    named = next((node for node in functions if node.name == entry.attr), module)
    return (ast.get_docstring(named) or "").partition("\n")[0]


def _extra(entry: EntryPoint) -> str:
    return next((e for name, e in _EXTRAS.items() if entry.module.startswith(name)), "services")


def _missing(entry: EntryPoint, error: ModuleNotFoundError) -> Callable[[typer.Context], None]:
    extra = _extra(entry)

    def fail(ctx: typer.Context) -> None:
        _errors.print(
            f"`preceptor {entry.name}` needs preceptor[{extra}] ({error.name} is not installed): "
            f"pip install 'preceptor[{extra}]'",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(2)

    return fail


def _version_alone(asked: bool) -> None:
    if asked:
        print_version()
        raise typer.Exit


@app.callback()
def about(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_version_alone
        ),
    ] = False,
) -> None:
    """Train language models from rich feedback."""


@app.command("version")
def print_version() -> None:
    """Prints the installed version."""
    typer.echo(version("preceptor"))


@app.command()
def serve(
    use: Annotated[str, typer.Argument(metavar="MODULE:CLASS", help="The service's class.")],
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8700,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE for the class's constructor; the value as plain text or JSON."
        ),
    ] = None,
    options_file: Annotated[
        Path | None,
        typer.Option(help="File with a JSON object of options; --option takes precedence."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key that callers must send.")
    ] = None,
) -> None:
    """Serves a Python class as an expert or feedback source."""
    try:
        options = read_options(options_file)
    except ValueError as error:
        raise fail_with(str(error)) from None
    serve_class(use, options, option or [], host=host, port=port, key_file=key_file)


def serve_class(
    use: str,
    options: Mapping[str, Any],
    pairs: Sequence[str] = (),
    *,
    host: str,
    port: int,
    key_file: Path | None,
) -> None:
    """Serves `module:Class`, built with `options` and NAME=VALUE pairs, until it is stopped.

    Raises:
        typer.Exit: it cannot be built, or the key cannot be read; the reason has been printed.
    """
    log_to_stderr()
    if importlib.util.find_spec("uvicorn") is None:
        raise fail_with("`preceptor serve` needs preceptor[serve]: pip install 'preceptor[serve]'")
    import uvicorn

    try:
        start_tracing(use.rpartition(":")[2])
        service = build_service(use, options, pairs)
        key = None if key_file is None else _own_key(key_file)
    except ValueError as error:
        raise fail_with(str(error)) from None
    app = service_app(service, key=key)
    collect_rarely()
    _log.info("%s is starting; it will listen at http://%s:%d", use, host, port)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        log_config=None,
        timeout_graceful_shutdown=10,
        http=http_protocol(),
        ws="none",
    )


def _own_key(path: Path) -> str:
    """The key that callers of this service must send; a missing file is created with a new key."""
    if not path.exists():
        make_key_file(path)
        typer.echo(f"{path} is new; callers need the key in it", err=True)
    return read_key(path)


def fail_with(message: str) -> typer.Exit:
    """Prints `message` as an error; the caller raises the returned exit."""
    _errors.print(message, markup=False, soft_wrap=True)
    return typer.Exit(2)


def build_service(
    use: str, options: Mapping[str, Any], pairs: Sequence[str] = ()
) -> ExpertService | SourceService:
    """The service named `module:Class`, built with `options` and NAME=VALUE pairs, which take
    precedence.

    Raises:
        ValueError: there is no such class, it does not accept the options, or it is not a service.
    """
    try:
        cls = load_named(use)
    except ValueError as error:
        raise ValueError(f"use: {error}{missing_extra(use, error.__cause__)}") from error
    try:
        service = cls(**{**options, **typed_options(pairs, cls)})
    except TypeError as error:
        raise ValueError(f"options: {use} does not take them: {error}") from error
    if not isinstance(service, (ExpertService, SourceService)):
        raise ValueError(f"use: {use} has neither `logprobs` nor `feedback` beside `info`")
    return service


def missing_extra(module: str, error: BaseException | None) -> str:
    """How to install the extra that a failed import of one of preceptor's modules needs."""
    extra = next((extra for name, extra in _EXTRAS.items() if module.startswith(name)), None)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return ""
    return f"; pip install 'preceptor[{extra}]'"


def read_options(path: Path | None) -> dict[str, Any]:
    """Options of a JSON file.

    Raises:
        ValueError: it cannot be read, or does not contain a JSON object.
    """
    if path is None:
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"options_file: {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"options_file: {path}: {error}") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"options_file: {path} does not contain a JSON object")
    return cast("dict[str, Any]", loaded)


def read_key(path: Path) -> str:
    """The key in a file, without the white space around it.

    Raises:
        ValueError: the file is empty; to run without a key, leave the option out.
    """
    key = read_key_file(path)
    if not key:
        raise ValueError(f"key_file: {path} is empty")
    return key
