"""The command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.main import get_command

from preceptor_clients.cli.main import GROUP, app
from reference.markdown import anchor, code, heading, join, table

INTRODUCTION = """
# Command line

`preceptor COMMAND --help` prints the same. A command whose package is not installed names the
extra that brings it.
"""


def page() -> str:
    """Every command with its arguments and options."""
    found = list(commands())
    contents = table(
        ["command", "what it does"],
        [[f"[`{name}`](#{_name(name)})", _first_line(command)] for name, command in found],
    )
    return join(INTRODUCTION, contents, *(_command(name, command) for name, command in found))


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its whole name, in alphabetical order."""
    yield from sorted(_leaves("preceptor", get_command(_everything())), key=lambda c: c[0])


def _everything() -> typer.Typer:
    root = typer.Typer(name="preceptor", add_completion=False)
    root.registered_commands += app.registered_commands
    for entry in entry_points(group=GROUP):
        command: Any = entry.load()
        if isinstance(command, typer.Typer):
            root.add_typer(command, name=entry.name)
        else:
            function: Callable[..., Any] = command
            root.command(entry.name)(function)
    return root


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children: dict[str, Any] | None = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child, inner in children.items():
        yield from _leaves(f"{name} {child}", inner)


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = [name, "[OPTIONS]" if options else "", *(_metavar(p).upper() for p in arguments)]
    return join(
        heading(2, f"`{name}`", _name(name)),
        inspect.cleandoc(command.help or ""),
        "    " + " ".join(word for word in words if word),
        _arguments(name, arguments),
        _options(name, options),
    )


def _arguments(name: str, arguments: list[Any]) -> str:
    rows = [[anchor(f"{_name(name)}-{p.name}") + code(_metavar(p)), _help(p)] for p in arguments]
    return table(["argument", "meaning"], rows) if rows else ""


def _options(name: str, options: list[Any]) -> str:
    rows = [
        [
            anchor(f"{_name(name)}-{p.opts[0].lstrip('-')}") + _flags(p),
            code(_type(p)),
            _default(p),
            _help(p),
        ]
        for p in options
    ]
    return table(["option", "value", "default", "meaning"], rows) if rows else ""


def _flags(option: Any) -> str:
    return ", ".join(code(flag) for flag in [*option.opts, *option.secondary_opts])


def _type(option: Any) -> str:
    if option.is_flag:
        return ""
    kind = str(option.display_type(None)).strip("<>").removesuffix(" range")
    kind = {"list[str]": "str", "str": "text", "int": "integer", "float": "number"}.get(kind, kind)
    bounds = [f">= {option.min}"] if option.min is not None else []
    bounds += [f"<= {option.max}"] if option.max is not None else []
    return " ".join([kind, *bounds]) + (", repeatable" if option.multiple else "")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    default = option.default
    if callable(default) or default is None or default in ([], ()):
        return ""
    if option.is_flag:
        return "on" if default is True else ""
    return code(default) if isinstance(default, (str, int, float)) or default else ""


def _help(parameter: Any) -> str:
    return " ".join((parameter.help or "").split())


def _metavar(argument: Any) -> str:
    return str(argument.display_name_raw)


def _first_line(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def _name(command: str) -> str:
    return command.removeprefix("preceptor ").replace(" ", "-")
