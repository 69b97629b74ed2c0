"""The script that pins a release: the digests of a registry go into a file for Compose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .compose_rules import ROOT

CONFIG = """services:
  broker:
    image: redis:7-bookworm
    restart: unless-stopped
  gateway:
    image: {ours}
networks:
  storage:
    image: not-an-image
"""


def _release(folder: Path, *words: str, ours: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with a `docker` that knows digests of all but one image."""
    (folder / "config.yml").write_text(CONFIG.format(ours=ours))
    docker = folder / "docker"
    docker.write_text(
        f"""#!{sys.executable}
import sys
words = sys.argv[1:]
if words[0] == "compose":
    print(open({str(folder / "config.yml")!r}).read() if words[-1] == "config" else "v2")
elif words[:2] == ["image", "inspect"]:
    name = words[-1].rpartition(":")[0]
    print('["%s@sha256:%s"]' % (name, "ab" * 32) if name != "preceptor-services" else "[]")
"""
    )
    docker.chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = (sys.executable, str(ROOT / "deploy" / "release-digests"), *words)
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_every_image_of_a_registry_is_pinned(tmp_path: Path) -> None:
    done = _release(tmp_path, ours="registry.example/preceptor-services:1.0")

    services = yaml.safe_load(done.stdout)["services"]
    assert services["broker"] == {"image": f"redis@sha256:{'ab' * 32}"}
    assert services["gateway"]["image"].startswith("registry.example/preceptor-services@sha256:")
    assert set(services) == {"broker", "gateway"}


def test_an_image_that_was_never_pushed_is_named(tmp_path: Path) -> None:
    done = _release(tmp_path, ours="preceptor-services:local")

    assert done.returncode == 1
    assert "no registry has preceptor-services:local" in done.stderr


@pytest.mark.parametrize("ours", ["preceptor-services:local"])
def test_built_images_may_be_left_out(tmp_path: Path, ours: str) -> None:
    done = _release(tmp_path, "--without-built", ours=ours)

    assert set(yaml.safe_load(done.stdout)["services"]) == {"broker"}
