"""Languages of programs: how a source becomes commands in the sandbox.

Python is there. Others are named in the executor's options by command templates:

    [sources.executor.options.languages.cpp]
    file = "main.cpp"
    compile = ["g++", "-O2", "-o", "main", "main.cpp"]
    keep = ["main"]
    run = ["./main"]

Commands run in the private folder of the sandbox, which has to see the compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from preceptor_clients.contract.errors import from_validation
from preceptor_clients.contract.programs import ProgramMode
from preceptor_clients.contract.sections import Section
from preceptor_services.sandbox.command import PYTHON, Command

PYTHON_LANGUAGE: Final = "python"
_RUNNER: Final = Path(__file__).with_name("python_runner.py")


class Language(Section):
    """Commands of one language, for programs that read standard input."""

    file: str
    """Name of the source in the private folder."""
    run: tuple[str, ...] = Field(min_length=1)
    """Command that runs a case."""
    compile: tuple[str, ...] = ()
    """Command that runs once for an attempt, before its cases."""
    keep: tuple[str, ...] = ()
    """Files that `compile` makes and `run` needs, beside the source."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """What an attempt's cases run."""

    argv: tuple[str, ...]
    files: Mapping[str, str | bytes]
    is_python: bool = False

    def command(self, stdin: str) -> Command:
        """The command for one input."""
        return Command(argv=self.argv, files=self.files, stdin=stdin.encode("utf-8", "replace"))


def read_languages(given: Mapping[str, object]) -> dict[str, Language]:
    """Languages of the executor's options.

    Raises:
        ValueError: one is wrong, or has the name of Python.
    """
    found: dict[str, Language] = {}
    for name, language in given.items():
        if name == PYTHON_LANGUAGE:
            raise ValueError(f"languages.{name}: is built in")
        try:
            found[name] = Language.model_validate(language)
        except ValidationError as error:
            raise ValueError(f"languages.{name}.{from_validation(error).detail}") from None
    return found


def python_build(program: str, mode: ProgramMode, entry: str | None) -> Build:
    """Python, run by our own script."""
    arguments = (mode,) if entry is None or mode == "stdin" else (mode, entry)
    files = {"main.py": _RUNNER.read_text(), "solution.py": program}
    return Build(argv=(PYTHON, "main.py", *arguments), files=files, is_python=True)


def python_check(program: str) -> Command:
    """Only compiles a Python program, so that its error can tell nothing about an input."""
    build = python_build(program, "stdin", None)
    return Command(argv=(PYTHON, "main.py", "compile"), files=build.files)
