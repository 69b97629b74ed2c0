"""`scripts/check-commands` finds every command that the product prints, and runs it."""

import importlib.machinery
import importlib.util
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console

from preceptor_services.supervisor.command import _say_where_people_work
from preceptor_trainer.deployment.failures import said_plainly

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def printed():
    loader = importlib.machinery.SourceFileLoader(
        "check_commands", str(ROOT / "scripts" / "check-commands")
    )
    spec = importlib.util.spec_from_loader("check_commands", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return lambda text: [match["command"] for match in module.PRINTED.finditer(text)]


def test_every_command_that_is_written_for_pasting_is_found(printed):
    sources = [path.read_text() for part in PACKAGES for path in (ROOT / part).rglob("*.py")]
    words = {word for text in sources for word in re.findall(r'\bpasted\("([a-z-]+)"', text)}

    assert {"trace", "corrections"} <= words
    assert all(printed(f"preceptor {word} and more") for word in words)


PACKAGES = ("clients/preceptor_clients", "services/preceptor_services", "trainer/preceptor_trainer")


def test_the_command_that_lets_a_person_in_is_found_behind_its_label(printed):
    console = Console(file=io.StringIO(), width=40)
    gateway = SimpleNamespace(url="http://127.0.0.1:1")
    supervisor = SimpleNamespace(folder="/a b", settings=SimpleNamespace(gateway=gateway))

    _say_where_people_work(supervisor, console)

    [found] = printed(console.file.getvalue())
    assert found.endswith("corrections people add ann --run-dir '/a b'")


def test_the_command_that_goes_on_is_found_behind_its_label(printed, capsys):
    with pytest.raises(typer.Exit), said_plainly(lambda: "nothing", "preceptor train run.toml"):
        raise KeyboardInterrupt

    assert printed(capsys.readouterr().err) == ["preceptor train run.toml"]


def test_sentences_about_preceptor_are_no_commands(printed):
    text = "preceptor is up; Ctrl-C ends it\npreceptor corrections: no such file\n"

    assert printed(text) == []
