"""What `preceptor doctor` finds, and what it tells to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from preceptor_clients.contract import deployment as schema
from preceptor_clients.contract.schemas import FeedbackItem, ServiceStatus
from preceptor_services.feedback.executor import Executor
from preceptor_services.jobs.streams import JobStreams
from preceptor_services.operating.doctor import doctor_command
from preceptor_services.operating.finding import Finding, exit_code
from preceptor_services.operating.gateway_checks import (
    clock_finding,
    dispatcher_finding,
    services_findings,
    version_finding,
)
from preceptor_services.operating.sample import Sample, parse_metrics
from preceptor_services.operating.settings_checks import (
    _probe,
    broker_finding,
    disk_finding,
    file_finding,
    walls_finding,
)


async def _invoke(*words: str) -> Result:
    app = typer.Typer()
    app.command()(doctor_command)
    return await asyncio.to_thread(CliRunner().invoke, app, list(words))


def _sample(text: str, *services: ServiceStatus) -> Sample:
    return Sample(at=0.0, values=parse_metrics(text), services=services, runs=())


def _levels(output: str) -> dict[str, str]:
    """Level by subject of every line."""
    lines = [line.split(None, 1) for line in output.splitlines() if line[:1] in "owf"]
    return {rest.partition(":")[0]: level for level, rest in lines}


async def test_a_gateway_alone_is_checked_with_a_key_of_a_reader(world: Any, url: str) -> None:
    key = world.settings.keys["reader"].file

    done = await _invoke("--url", url, "--key-file", str(key))

    levels = _levels(done.output)
    for subject in ("gateway", "clock", "readiness", "strangers", "version", "key"):
        assert levels[subject] == "ok", done.output
    assert levels["expert uniform"] == "ok"
    assert levels["dispatchers"] == "fail"
    assert "start `preceptor dispatcher`" in done.output
    assert done.exit_code == 1


async def test_a_gateway_that_is_away_is_one_line_with_its_address(tmp_path: Path) -> None:
    key = tmp_path / "reader.key"
    key.write_text("k" * 43)

    done = await _invoke("--url", "http://127.0.0.1:9", "--key-file", str(key))

    assert done.exit_code == 1
    assert list(_levels(done.output).items()) == [("gateway", "fail")]
    assert "start it, or correct the address http://127.0.0.1:9" in done.output


async def test_with_the_settings_keys_files_and_broker_are_checked(
    world: Any, url: str, broker: Any, tmp_path: Path
) -> None:
    raw = world.settings.model_dump(mode="json")
    raw["gateway"] |= {"port": int(url.rpartition(":")[2]), "broker": broker.url}
    for name in raw["keys"]:
        (tmp_path / "keys" / f"{name}.key").chmod(0o644 if name == "reader" else 0o600)
    raw["keys"]["stranger"] = {"file": str(_new_key(tmp_path)), "scopes": ["reader"]}
    for role in ("experts", "sources"):
        for service in raw[role].values():
            service["url"] = "http://127.0.0.1:9"
    file = tmp_path / "doctor.toml"
    file.write_text(schema.to_toml(schema.Deployment.model_validate(raw)))

    done = await _invoke("--config", str(file))

    levels = _levels(done.output)
    assert levels["key trainer"] == "ok", done.output
    assert levels["key reader"] == "fail"
    assert "can be read by everybody" in done.output
    assert levels["key stranger"] == "fail"
    assert "the gateway does not know it" in done.output
    assert levels["broker"] == "ok"
    assert levels["contract of uniform"] == levels["sandbox of executor"] == "warn"


def _new_key(folder: Path) -> Path:
    file = folder / "keys" / "stranger.key"
    file.write_text("s" * 43)
    file.chmod(0o600)
    return file


async def test_the_broker_tells_its_settings(queue: JobStreams) -> None:
    told = await queue.server_settings()

    assert told["maxmemory-policy"] == "noeviction"
    assert told["appendonly"] == "yes"
    assert broker_finding(told).level == "ok"


@pytest.mark.parametrize(
    ("told", "level"),
    [
        ({"version": "5.0.7"}, "fail"),
        ({"version": "7.0.15", "maxmemory-policy": "allkeys-lru"}, "fail"),
        ({"version": "7.0.15", "appendonly": "no"}, "warn"),
        ({"version": "9.1.2"}, "ok"),
    ],
)
def test_a_broker_that_may_lose_jobs_is_found(told: dict[str, str], level: str) -> None:
    assert broker_finding(told).level == level


@pytest.mark.parametrize(("skew_s", "level"), [(2.0, "ok"), (-30.0, "warn"), (3600.0, "fail")])
def test_a_clock_that_differs_is_found(skew_s: float, level: str) -> None:
    assert clock_finding(1000.0 + skew_s, 1000.0).level == level


def test_another_version_is_a_warning_with_both() -> None:
    finding = version_finding("0.1", "0.2")

    assert (finding.level, finding.detail) == ("warn", "the gateway has 0.1, this command 0.2")


def test_a_service_that_is_not_ready_fails_and_one_that_lags_is_a_warning() -> None:
    away = ServiceStatus(name="owl", role="expert", state="refused", detail="mass: 1.2")
    late = ServiceStatus(name="cat", role="source", state="ready")
    sample = _sample('preceptor_queue_oldest_seconds{service="cat"} 300\n', away, late)

    [refused, lagging] = services_findings(sample)

    assert (refused.level, refused.detail) == ("fail", "refused: mass: 1.2")
    assert (lagging.level, lagging.subject) == ("warn", "source cat")


def test_a_queue_that_cannot_be_read_is_not_an_empty_one() -> None:
    ready = ServiceStatus(name="owl", role="expert", state="ready")
    sample = _sample('preceptor_queue_depth{service="owl"} NaN\n', ready)

    [finding] = services_findings(sample)

    assert finding.level == "fail"
    assert "its queue cannot be read" in finding.detail


async def test_a_gateway_whose_broker_is_away_is_not_a_wrong_key(world: Any, url: str) -> None:
    world.queue.down = True
    key = world.settings.keys["reader"].file

    done = await _invoke("--url", url, "--key-file", str(key))

    levels = _levels(done.output)
    assert (levels["readiness"], levels["key"], levels["expert uniform"]) == ("fail", "ok", "fail")
    assert "the broker does not answer" in done.output


@pytest.mark.parametrize(("age", "level"), [("NaN", "fail"), ("4", "ok"), ("90", "fail")])
def test_dispatchers_that_do_not_call_are_found(age: str, level: str) -> None:
    sample = _sample(f"preceptor_dispatcher_seen_seconds {age}\n")

    assert dispatcher_finding(sample).level == level


async def test_the_sandbox_is_judged_by_the_answer_to_a_real_question() -> None:
    executor = Executor(workers=1)
    await executor.start()
    try:
        [answer] = await executor.feedback([_probe()])
    finally:
        await executor.stop()
    told = executor.describe_isolation()["level"]

    finding = walls_finding("sandbox", answer.items)

    assert answer.items[0].score == 1.0
    assert finding.level == ("ok" if told == "namespaces" else "warn")
    assert finding.detail == f"level {told}"


def test_a_source_that_runs_no_programs_needs_no_walls() -> None:
    item = FeedbackItem(id="0", kind="comment", text="short", source="brevity", version="1")

    assert walls_finding("sandbox", (item,)).level == "ok"


def test_a_missing_key_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    finding = file_finding("key x", tmp_path / "x.key")

    assert finding is not None
    assert "`preceptor deploy keys` creates it" in finding.remedy


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert "GiB free" in disk_finding(tmp_path / "not" / "yet").detail


def test_only_a_failure_decides_the_exit_code() -> None:
    warned, failed = Finding("warn", "a", "b"), Finding("fail", "a", "b")

    assert exit_code([warned]) == 0
    assert exit_code([warned, failed]) == 1
