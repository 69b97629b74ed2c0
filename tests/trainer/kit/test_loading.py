"""A user's own module is found where the command is typed, and a bad name is a clear message."""

import os
import subprocess
import sys

import pytest
import typer

from preceptor_trainer.kit.loading import load_named


def test_a_module_in_the_working_folder_is_found_by_an_installed_command(tmp_path):
    (tmp_path / "my_recipe_here.py").write_text("answer = 42\n")
    # As a console script starts: `-P` leaves the working folder off Python's path.
    code = (
        "from preceptor_trainer.kit.loading import load_named;"
        "print(load_named('my_recipe_here:answer', 'X'))"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr


def test_a_bare_name_is_looked_up_at_home():
    assert load_named("sqrt", "X", home="math")(4) == 2


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("math:no_such_name", "no_such_name"),
        ("math", "'math' is not module:name"),
        (":x", "':x'"),
    ],
)
def test_what_is_not_there_is_said(path, words):
    with pytest.raises(typer.BadParameter, match=words):
        load_named(path, "X")


@pytest.mark.parametrize(
    ("name", "home", "offered"),
    [
        ("DISTL", "preceptor_trainer.recipes.methods", "distil, distil-local"),
        ("slow", "preceptor_trainer.recipes.comparisons", "fast"),
    ],
)
def test_an_unknown_method_or_comparison_lists_those_that_there_are(name, home, offered):
    with pytest.raises(typer.BadParameter, match=offered):
        load_named(name, "X", home=home)
