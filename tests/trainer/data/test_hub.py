"""Claims about models and data sets by their names on the hub, with the libraries that fetch them.

The hub is a small one on this machine; a process of its own reads `HF_ENDPOINT` as a user's does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preceptor_trainer.data.hub import HubName, at_commit, hub_name

from ...own_model import hub

ASKED = """
import json, sys
from pathlib import Path
from preceptor_trainer.data.hub import fetch_model
from preceptor_trainer.data.reading import read_rows

def said(ask, *words, **named):
    try:
        return ask(*words, **named)
    except ValueError as error:
        return f"refused: {error}"

def model(name):
    return str(said(fetch_model, name))

def rows(name, **named):
    return said(read_rows, name, Path(), **named)

names = ("org/model", "org/model@v1", "org/model@v9", "org/none")
found = {name: model(name) for name in names}
found |= {"rows": rows("org/rows"), "test": rows("org/rows", split="test")}
found |= {"old": rows("org/rows@old"), "new": rows("org/rows@new"), "none": rows("org/none")}
Path(sys.argv[1]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process got from a hub with a model and a data set of two revisions each."""
    folder = tmp_path_factory.mktemp("hub")
    for name, text in (("newest", "2"), ("first", "1")):
        (folder / name / "onnx").mkdir(parents=True)
        (folder / name / "config.json").write_text(text)
        (folder / name / "onnx" / "config.json").write_text("{}")
    for name in ("rows", "old"):
        (folder / name).mkdir()
        for split in ("train", "test"):
            line = json.dumps({"prompt": f"{name} {split}", "answer": 3})
            (folder / name / f"{split}.jsonl").write_text(line + "\n")
    repos = {
        "models/org/model": {"main": folder / "newest", "v1": folder / "first"},
        "datasets/org/rows": {"main": folder / "rows", "old": folder / "old"},
    }
    out = folder / "found.json"
    with hub.serving(repos) as url:
        home = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home")}
        command = [sys.executable, "-c", ASKED, str(out)]
        subprocess.run(command, env=os.environ | home, check=True, timeout=280)
    return json.loads(out.read_text())


def test_a_model_is_fetched_by_its_name_and_by_a_revision(found: dict[str, Any]) -> None:
    newest, first = Path(found["org/model"]), Path(found["org/model@v1"])

    assert (newest / "config.json").read_text() == "2"
    assert (first / "config.json").read_text() == "1"
    assert first.name != newest.name, "a run's record names the commit"
    assert not (newest / "onnx").exists(), "weights in another form are left out"


def test_a_model_that_is_not_there_is_refused_with_the_hubs_address(found: dict[str, Any]) -> None:
    missing, revision = found["org/none"], found["org/model@v9"]

    assert missing.startswith("refused: org/none: is no folder here, and http://127.0.0.1:")
    assert "has no such model; a private one needs `hf auth login`" in missing
    assert "has no revision 'v9' of org/model" in revision


def test_a_data_set_is_read_by_its_name_split_and_revision(found: dict[str, Any]) -> None:
    prompts = [found[name][0][1]["prompt"] for name in ("rows", "test", "old")]

    assert prompts == ["rows train", "rows test", "old train"]
    assert found["rows"] == [["org/rows[train]:1", {"prompt": "rows train", "answer": 3}]]


def test_a_data_set_that_is_not_there_is_refused(found: dict[str, Any]) -> None:
    assert "org/none: the split 'train' could not be loaded: Dataset 'org/none'" in found["none"]
    assert "Revision 'new' doesn't exist for dataset 'org/rows'" in found["new"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/name", HubName("org/name", None)),
        ("gpt2@refs/pr/1", HubName("gpt2", "refs/pr/1")),
        ("./no/such/place", None),
        ("a/b/c", None),
        ("org/name@", None),
    ],
)
def test_what_can_be_a_name_of_the_hub(text: str, name: HubName | None) -> None:
    assert hub_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/name", "org/name@c0ffee"),
        ("org/name@main", "org/name@c0ffee"),
        ("org/other", "org/other"),
        ("../org/name", "../org/name"),
    ],
)
def test_a_fetched_folder_names_the_commit_of_its_own_model_alone(text: str, name: str) -> None:
    fetched = Path("hub/models--org--name/snapshots/c0ffee")

    assert at_commit(text, fetched) == name
