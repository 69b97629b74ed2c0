"""`preceptor train` and `quickstart`: what is wrong is said without a traceback."""

import pytest
import typer
from typer.testing import CliRunner

from preceptor_trainer.commands.run import quickstart_command, train_command

RECIPE = "preceptor_trainer.recipes.quickstart:quickstart"


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no broken lines in the messages
    app = typer.Typer()
    app.command()(train_command)
    key_file = tmp_path / "key"
    key_file.write_text("k" * 40)

    def run(recipe: str, *options: str, key: str = str(key_file)):
        words = [recipe, "--run-dir", str(tmp_path / "run"), "--gateway", "http://127.0.0.1:1"]
        pairs = [word for option in options for word in ("--option", option)]
        return CliRunner().invoke(app, [*words, "--key-file", key, *pairs])

    return run


@pytest.mark.parametrize(
    ("recipe", "options", "words"),
    [
        (RECIPE, ["stepz=3"], "'stepz'"),
        (RECIPE, ["held_out=1", "steps=0"], "steps: must be at least 1, not 0"),
        ("collections:UserDict", [], "returned a UserDict, not a RunConfig"),
        ("nowhere:recipe", [], "No module named 'nowhere'"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named(train, recipe, options, words):
    result = train(recipe, *options)

    assert result.exit_code == 2
    assert words in result.output


def test_a_key_file_that_is_not_there_is_named(train):
    result = train(RECIPE, key="no/such.key")

    assert result.exit_code == 2
    assert "no/such.key" in result.output


def test_services_that_do_not_start_are_told_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "bad"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "up.log").write_text("words of an earlier start\n")
    (folder / "preceptor.toml").write_text("[gateway]\nprot = 1\n")
    app = typer.Typer()
    app.command()(quickstart_command)
    words = ["--runs", str(tmp_path), "--name", "bad", "--held-out", "1", "--samples", "1"]

    result = CliRunner().invoke(app, words)

    assert result.exit_code == 1
    assert "`preceptor up` ended with exit code 1" in result.output
    assert "gateway.prot" in result.output
    assert "earlier start" not in result.output
