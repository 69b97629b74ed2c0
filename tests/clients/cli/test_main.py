"""The `preceptor` command: its own commands, and those that packages add."""

import errno
import os
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from preceptor_clients.cli import main as cli
from preceptor_clients.contract.schemas import FeedbackAnswer, FeedbackQuery, ServiceInfo

runner = CliRunner()


def app_with(*entries: EntryPoint, load: bool = True) -> typer.Typer:
    app = typer.Typer()
    app.command("other")(lambda: None)
    for entry in entries:
        cli.add_command(app, entry, load=load)
    return app


def hello(name: str) -> None:
    typer.echo(f"hello {name}")


group = typer.Typer()
group.command("hello")(hello)
group.command("other")(lambda: None)


@pytest.fixture
def commands(monkeypatch):
    """This file as a module that entry points can name."""
    monkeypatch.setitem(sys.modules, "own_commands", sys.modules[__name__])


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=cli.GROUP)


def test_a_function_becomes_a_command_and_a_typer_a_group(commands):
    app = app_with(entry("greet", "own_commands:hello"), entry("nested", "own_commands:group"))

    assert runner.invoke(app, ["greet", "you"]).output == "hello you\n"
    assert runner.invoke(app, ["nested", "hello", "you"]).output == "hello you\n"


def test_a_missing_extra_is_named(capsys):
    app = app_with(entry("train", "preceptor_trainer.nowhere:main"))

    result = runner.invoke(app, ["train"])

    assert result.exit_code == 2
    assert "pip install 'preceptor[trainer]'" in " ".join(result.stderr.split())


def test_what_is_not_asked_for_is_listed_with_its_first_line_and_not_imported(
    monkeypatch, tmp_path
):
    source = (
        '"""Module."""\ndef up():\n    """Starts it all."""\nraise AssertionError("imported")\n'
    )
    (tmp_path / "own_listed.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    listed = entry("up", "own_listed:up"), entry("gone", "preceptor_services.nowhere:main")
    result = runner.invoke(app_with(*listed, load=False), ["--help"])

    assert "Starts it all." in result.output
    assert "preceptor[services]" in result.output


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.strip().startswith("0.")


def test_the_version_is_an_option_too(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.strip().startswith("0.")


class FullDisk(typer.Typer):
    """An application that meets a full disk."""

    def __call__(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/model")


def test_what_the_network_or_the_disk_refuses_is_said_without_a_trace(monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", FullDisk())

    with pytest.raises(SystemExit) as ended:
        cli.main(["train"])

    assert ended.value.code == 1
    assert "No space left on device: 'runs/a/model'" in capsys.readouterr().err


def test_wrong_options_are_refused(tmp_path: Path):
    path = tmp_path / "options.json"
    path.write_text("[]")

    with pytest.raises(ValueError, match="options_file"):
        cli.read_options(path)
    with pytest.raises(ValueError, match=r"options_file: .*No such file"):
        cli.read_options(tmp_path / "none.json")
    with pytest.raises(ValueError, match="NAME=VALUE"):
        cli.build_service("json:JSONDecoder", {}, ["a"])


def test_a_missing_library_of_a_shipped_expert_names_the_extra():
    error = ModuleNotFoundError("No module named 'torch'", name="torch")

    assert "preceptor[services,model]" in cli.missing_extra("preceptor_services.experts.x", error)
    assert cli.missing_extra("my_own.expert", error) == ""


@pytest.mark.parametrize(
    ("use", "options", "reason"),
    [
        ("nowhere:Class", {}, "cannot be imported"),
        ("json:Nothing", {}, "cannot be imported"),
        ("json", {}, "is not module:name"),
        ("json:JSONDecoder", {"other": 1}, "does not take them"),
        ("json:JSONDecoder", {}, "neither `logprobs` nor `feedback`"),
    ],
)
def test_what_is_no_service_is_refused(use, options, reason):
    with pytest.raises(ValueError, match=reason):
        cli.build_service(use, options)


def test_serve_ends_with_the_reason():
    result = runner.invoke(cli.app, ["serve", "nowhere:Class"])

    assert result.exit_code == 2
    assert "nowhere" in result.stderr


class Silent:
    """A service that is never called."""

    def info(self) -> ServiceInfo:
        return ServiceInfo(name="silent", role="source", version="1")

    async def feedback(self, queries: Sequence[FeedbackQuery]) -> list[FeedbackAnswer]:
        return []


def test_serve_makes_and_names_a_key_file_that_is_missing(tmp_path: Path, commands: None) -> None:
    file = tmp_path / "keys" / "own.key"
    # A port that is taken ends the command before it serves.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["serve", "own_commands:Silent", "--port", port, "--key-file", str(file)]
        made, kept = (runner.invoke(cli.app, words) for _ in range(2))

    assert f"{file} is new; callers need the key in it" in made.stderr
    assert f"{file} is new" not in kept.stderr
    assert len(file.read_text().strip()) >= 32
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_key_is_read_without_its_white_space_and_never_empty(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text("secret\n")
    assert cli.read_key(path) == "secret"

    path.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        cli.read_key(path)
