"""What `preceptor expert new` writes works as it stands: its own test, served, checked."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preceptor_clients.cli import expert as expert_command
from preceptor_clients.cli.new_expert import write_expert
from preceptor_clients.cli.own_wheel import write_own_wheel
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_trainer.student.architecture import make_tokenizer

COMMAND = (sys.executable, "-m", "preceptor_clients.cli", "expert")


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """The generated service as its own user would start it."""
    use, key = "wise_owl:WiseOwl", folder / "owl.key"
    key.write_text("owl-" + "k" * 40)
    command = [*COMMAND, "serve", use, "--port", str(port), "--key-file", str(key)]
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.e2e
def test_a_new_expert_passes_its_own_test_and_the_check_when_served(tmp_path, port):
    folder = tmp_path / "owl"
    made = run(*COMMAND, "new", "wise-owl", "--folder", folder, "--port", str(port), cwd=tmp_path)
    assert made.returncode == 0, made.stderr

    own = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".", cwd=folder)
    assert own.returncode == 0, own.stdout

    with served(folder, port) as url:
        wait_until_it_listens(port)
        checked = run(*COMMAND, "check", url, "--key-file", "owl.key", "--json", cwd=folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["ok"] is True


def wait_until_it_listens(port: int) -> None:
    import socket
    import time

    for _ in range(600):
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the service did not start within a minute")


def test_the_written_settings_name_what_was_written(tmp_path):
    written = {path.name for path in write_expert("wise-owl", tmp_path / "owl", 8155)}

    settings = tomllib.loads((tmp_path / "owl" / "preceptor.toml").read_text())
    assert written == {
        "Dockerfile",
        "build",
        "compose.yml",
        "preceptor.toml",
        "test_wise_owl.py",
        "wise_owl.py",
    }
    expert = settings["experts"]["wise-owl"]
    assert (expert["use"], expert["url"]) == ("wise_owl:WiseOwl", "http://127.0.0.1:8155")
    for name in ("Dockerfile", "build", "compose.yml"):
        assert "{{" not in (tmp_path / "owl" / name).read_text()


def test_the_image_installs_the_wheel_that_its_build_step_makes(tmp_path):
    folder = tmp_path / "owl"
    write_expert("wise-owl", folder, 8155)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\nls wheels > built; echo $* >> built\n")
    docker.chmod(0o755)
    program = tmp_path / "bin" / "preceptor"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m preceptor_clients.cli "$@"\n')
    program.chmod(0o755)

    env = {**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}"}
    ran = subprocess.run([folder / "build"], env=env, capture_output=True, text=True, timeout=120)

    assert ran.returncode == 0, ran.stderr
    [wheel, called] = (folder / "built").read_text().splitlines()
    dockerfile = (folder / "Dockerfile").read_text()
    assert f'"preceptor[serve]=={version("preceptor")}"' in dockerfile
    assert wheel == f"preceptor-{version('preceptor')}-py3-none-any.whl"
    assert "COPY wheels/ /wheels/" in dockerfile
    assert "--find-links /wheels" in dockerfile
    assert called == "build --tag wise-owl:local ."
    assert "image: wise-owl" in (folder / "compose.yml").read_text()


def test_the_wheel_is_whole_for_an_installer(tmp_path):
    wheel = write_own_wheel(tmp_path / "wheels")

    place = tmp_path / "installed"
    words = ["install", "-q", "--no-deps", "--no-index", "--target", str(place), str(wheel)]
    ran = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    env = {"PYTHONPATH": str(place), "PATH": os.environ["PATH"]}
    source = "import preceptor_clients.cli.main as m; print(m.__file__)"
    imported = subprocess.run(
        [sys.executable, "-c", source], env=env, capture_output=True, text=True, cwd=tmp_path
    )

    assert ran.returncode == 0, ran.stderr
    assert imported.stdout.startswith(str(place)), imported.stderr
    assert (place / "preceptor_clients/cli/expert_template/build.jinja").exists()
    assert write_own_wheel(tmp_path / "again").read_bytes() == wheel.read_bytes()


def test_the_vocabulary_is_printed_as_the_options_want_it(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path / "student")

    printed = CliRunner().invoke(expert_command.app, ["vocabulary", str(tmp_path / "student")])

    assert tomllib.loads(printed.stdout) == {
        "vocab_size": len(tokenizer),
        "fingerprint": tokenizer_fingerprint(tokenizer),
    }


@pytest.mark.parametrize("name", ["Owl", "../owl", "owl-", "1owl", ""])
def test_a_name_that_is_no_module_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name"):
        write_expert(name, tmp_path / "x", 8101)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.py").write_text("precious")

    with pytest.raises(ValueError, match="is not empty"):
        write_expert("owl", tmp_path, 8101)
