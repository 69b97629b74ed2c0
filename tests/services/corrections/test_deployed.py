"""The page's own block of a deployment is whole: what it names is there, relative to its file."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from preceptor_clients.contract.deployment import Deployment
from preceptor_services.kit.settings import load_settings
from preceptor_services.supervisor.plan import make_plan

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "corrections.md"
NAME = "people"


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The block in a folder of its own, as `preceptor up` starts it from elsewhere."""
    [block] = re.findall(r"^ *```toml\n(.*?)^ *```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    folder = tmp_path / "deployment"
    folder.mkdir()
    (folder / "preceptor.toml").write_text(textwrap.dedent(block))
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path("deployment") / "preceptor.toml", env={})
    return make_plan(settings, folder.resolve()).settings


def test_paths_among_the_options_of_the_peoples_expert_are_relative_to_the_file(
    planned: Deployment, tmp_path: Path
) -> None:
    options = planned.experts[NAME].options

    assert options["model"] == str(tmp_path / "deployment" / "path/to/student")
    assert options["config"] == str(tmp_path / "deployment" / "resolved.toml")
    assert Path(str(options["config"])).exists()


def test_the_block_has_every_key_that_the_queue_needs(planned: Deployment) -> None:
    keys = [planned.key_for("admin"), planned.key_for("expert", NAME)]

    assert all(len(key.read_text().strip()) >= 32 for key in keys)
    assert len({key.read_text() for key in keys}) == 2
    assert planned.experts[NAME].key_file.exists()
