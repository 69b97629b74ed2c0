"""The supervisor: what it decides, what it says when a process fails, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from preceptor_clients.contract.deployment import (
    DeployedGateway,
    DeployedKey,
    DeployedService,
    Deployment,
    local_service,
    to_toml,
)
from preceptor_services.kit.settings import load_settings
from preceptor_services.supervisor.plan import make_plan

MOODY_FOLDER = Path(__file__).parents[1] / "dispatcher"


def until(condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def write_deployment(folder: Path, deployment: Deployment) -> Path:
    path = folder / "preceptor.toml"
    path.write_text(to_toml(deployment))
    return path


def moody_settings(folder: Path, **options: str) -> Path:
    given = options or {"log": f"{folder}/moody.txt"}
    moody = local_service("moody", "moody:Moody", given).model_copy(update={"self_test": False})
    gateway = DeployedGateway(port=0)
    return write_deployment(folder, Deployment(gateway=gateway, experts={"moody": moody}))


# ---------------------------------------------------------------- decisions


def test_the_plan_fills_in_ports_keys_and_the_broker(tmp_path: Path) -> None:
    settings = load_settings(moody_settings(tmp_path), env={})

    plan = make_plan(settings, tmp_path)

    assert [spec.name for spec in plan.specs] == ["broker", "gateway", "moody", "dispatcher"]
    resolved = load_settings(tmp_path / "resolved.toml", env={})
    assert resolved == plan.settings
    assert resolved.gateway.port > 0
    assert resolved.gateway.broker.startswith("redis://127.0.0.1:")
    assert not resolved.experts["moody"].url.endswith(":0")
    for scope in ("trainer", "dispatcher", "admin"):
        file = resolved.key_for(scope)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(file.read_text().strip()) >= 32


def key_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "keys").rglob("*.key")}


def test_keys_that_are_there_are_kept(tmp_path: Path) -> None:
    config = moody_settings(tmp_path)
    make_plan(load_settings(config, env={}), tmp_path)
    before = key_files(tmp_path)

    make_plan(load_settings(config, env={}), tmp_path)

    assert key_files(tmp_path) == before


def test_the_gateways_port_is_the_same_at_the_next_start_unless_it_is_taken(
    tmp_path: Path,
) -> None:
    settings = load_settings(moody_settings(tmp_path), env={})

    first = make_plan(settings, tmp_path).settings.gateway.port
    second = make_plan(settings, tmp_path).settings.gateway.port
    with socket.create_server(("127.0.0.1", first)):
        third = make_plan(settings, tmp_path).settings.gateway.port

    assert second == first
    assert third != first


def test_a_key_of_the_users_own_is_never_given_more_scopes(tmp_path: Path) -> None:
    reader = DeployedKey(file=Path("keys/admin.key"), scopes=("reader",))
    config = write_deployment(tmp_path, Deployment(keys={"admin": reader}))

    keys = make_plan(load_settings(config, env={}), tmp_path).settings.keys

    assert keys["admin"].scopes == ("reader",)
    assert keys["own-admin"].file.read_text() != keys["admin"].file.read_text()


def test_a_named_broker_and_services_without_class_are_not_started(tmp_path: Path) -> None:
    elsewhere = DeployedService(url="http://127.0.0.1:9999", key_file=Path("keys/elsewhere.key"))
    gateway = DeployedGateway(broker="redis://127.0.0.1:6379/0")
    config = write_deployment(
        tmp_path, Deployment(gateway=gateway, experts={"elsewhere": elsewhere})
    )

    plan = make_plan(load_settings(config, env={}), tmp_path)

    assert [spec.name for spec in plan.specs] == ["gateway", "dispatcher"]
    assert not (tmp_path / "keys" / "elsewhere.key").exists()


# ---------------------------------------------------------------- processes


def environment() -> dict[str, str]:
    places = [str(MOODY_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def up_command(config: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "preceptor_clients.cli",
        "up",
        "--config",
        str(config),
        *more,
    ]


@pytest.mark.e2e
def test_a_service_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    config = moody_settings(tmp_path, log_typo="moody.txt")

    ended = subprocess.run(
        up_command(config), env=environment(), capture_output=True, text=True, timeout=120
    )

    assert ended.returncode == 1
    assert "moody ended with exit code 2" in ended.stderr
    assert "log_typo" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.e2e
def test_a_bad_settings_file_is_named_with_its_field(tmp_path: Path) -> None:
    config = tmp_path / "preceptor.toml"
    config.write_text("[gateway]\nprot = 1\n")

    ended = subprocess.run(up_command(config), capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert "gateway.prot" in ended.stderr


@dataclass(frozen=True)
class Up:
    """A deployment that was started by a caller in between, which may be killed."""

    caller: subprocess.Popen[bytes]
    ready_file: Path
    printed: Path

    def pids(self) -> dict[str, int]:
        return json.loads(self.ready_file.read_text())["pids"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    ready_file, printed = folder / "ready.json", folder / "printed.txt"
    words = up_command(moody_settings(folder), "--ready-file", str(ready_file))
    source = f"import subprocess; subprocess.run({words!r})"
    with printed.open("wb") as output:
        caller = subprocess.Popen([sys.executable, "-c", source], env=environment(), stdout=output)
    try:
        until(ready_file.exists)
        yield Up(caller, ready_file, printed)
    finally:
        caller.kill()
        caller.wait()


@pytest.mark.e2e
def test_the_page_and_the_command_that_up_prints_work_when_pasted(up: Up) -> None:
    until(lambda: {"correction page", "a key for ann"} <= labelled(up.printed).keys())
    printed = labelled(up.printed)

    page = httpx.get(printed["correction page"])
    invited = subprocess.run(printed["a key for ann"], shell=True, capture_output=True, text=True)

    assert page.headers["content-type"].startswith("text/html")
    assert len(invited.stdout.split()) == 1, invited.stderr
    assert printed["correction page"] in invited.stderr


def labelled(file: Path) -> dict[str, str]:
    """The values of whole lines of the form `LABEL: VALUE`."""
    whole, _, _ = file.read_text().rpartition("\n")
    found = (line.strip().partition(": ") for line in whole.splitlines())
    return {label: value.strip() for label, colon, value in found if colon}


@pytest.mark.e2e
def test_a_crashed_expert_is_restarted_and_all_ends_with_the_caller(up: Up) -> None:
    first = up.pids()

    os.kill(first["moody"], signal.SIGKILL)
    until(lambda: up.pids()["moody"] != first["moody"])
    second = up.pids()

    assert {n: p for n, p in second.items() if n != "moody"} == {
        n: p for n, p in first.items() if n != "moody"
    }
    up.caller.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in second.values()), 60.0)
    until(lambda: not up.ready_file.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    source = f"""
    import time
    from pathlib import Path
    from preceptor_services.supervisor.child import Child, ChildSpec
    async def ready(): return True
    child = Child(ChildSpec(name="c", command=("sleep", "600"), log=Path("{tmp_path}/c.log"),
                            url=None, is_ready=ready, stop_rank=0))
    child.start()
    Path("{pid_file}").write_text(str(child.pid))
    time.sleep(600)
    """
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)])
    until(lambda: pid_file.exists() and pid_file.read_text() != "")
    child = int(pid_file.read_text())
    assert psutil.pid_exists(child)

    supervisor.kill()
    supervisor.wait()

    until(lambda: not psutil.pid_exists(child), 10.0)
