"""What `preceptor top` shows of a deployment."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from preceptor_clients.contract.schemas import ServiceStatus
from preceptor_services.operating.frame import frame
from preceptor_services.operating.sample import Interval, Sample, parse_metrics, take_sample
from preceptor_services.operating.top import top_command


def _sample(text: str, at: float, *services: ServiceStatus) -> Sample:
    return Sample(at=at, values=parse_metrics(text), services=services, runs=())


def _drawn(interval: Interval) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(frame(interval))
    return console.export_text()


def _status(state: Any, detail: str | None = None) -> ServiceStatus:
    return ServiceStatus(name="owl", role="expert", state=state, detail=detail)


async def _invoke(*words: str, columns: str = "200") -> Result:
    import typer

    app = typer.Typer()
    app.command()(top_command)
    return await asyncio.to_thread(CliRunner(env={"COLUMNS": columns}).invoke, app, list(words))


def test_rates_are_over_the_interval_and_means_over_its_calls() -> None:
    name = "preceptor_call_seconds"
    series = f'{name}_sum{{service="owl"}} %s\n{name}_count{{service="owl"}} %s\n'
    interval = Interval(_sample(series % (10, 5), 0.0), _sample(series % (16, 8), 2.0))

    assert interval.mean("preceptor_call_seconds", service="owl") == pytest.approx(2.0)
    assert interval.rate("preceptor_call_seconds_count", service="owl") == pytest.approx(1.5)


def test_a_gateway_that_was_restarted_counts_from_zero() -> None:
    interval = Interval(_sample("x 100\n", 0.0), _sample("x 6\n", 2.0))

    assert interval.grown("x") == 6.0


def test_an_interval_without_calls_has_no_mean() -> None:
    interval = Interval(_sample("", 0.0), _sample("", 2.0))

    assert interval.mean("preceptor_call_seconds", service="owl") is None


def test_a_service_that_is_away_is_shown_with_its_reason() -> None:
    now = _sample("", 2.0, _status("unreachable", "no reply from http://owl"))

    text = _drawn(Interval(_sample("", 0.0), now))

    assert "unreachable" in text
    assert "owl: no reply from http://owl" in text


@pytest.mark.parametrize(("depth", "told"), [("NaN", True), ("0", False)])
def test_a_broker_that_is_away_is_said_above_all_and_no_depth_is_made_up(
    depth: str, told: bool
) -> None:
    now = _sample(f'preceptor_queue_depth{{service="owl"}} {depth}\n', 2.0, _status("ready"))

    assert ("the broker does not answer" in _drawn(Interval(_sample("", 0.0), now))) is told


def test_refusals_of_the_interval_are_shown_with_their_reason() -> None:
    series = (
        'preceptor_refusals_total{service="owl",stage="answer",reason="answer-refused/mass"} %d\n'
    )
    before, now = _sample(series % 2, 0.0), _sample(series % 5, 2.0, _status("ready"))

    assert "owl: 3 refused: answer-refused/mass" in _drawn(Interval(before, now))


def test_a_narrow_terminal_shows_every_name_and_state_whole() -> None:
    name = "a-service-with-a-long-name"
    status = ServiceStatus(name=name, role="expert", state="unreachable")
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(frame(Interval(_sample("", 0.0), _sample("", 2.0, status))))

    assert f"{name}   unreachable" in console.export_text()


async def test_one_frame_of_a_running_gateway(world: Any, url: str) -> None:
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    key = world.settings.keys["reader"].file

    done = await _invoke("--once", "--interval", "0.1", "--url", url, "--key-file", str(key))

    assert done.exit_code == 0, done.output
    [line] = [line for line in done.output.splitlines() if line.strip().startswith("uniform")]
    assert line.split()[:3] == ["uniform", "ready", "1"]
    assert "no run is on record" in done.output
    assert "none has called" in done.output


async def test_a_pipe_gets_every_column_whole(world: Any, url: str) -> None:
    key, words = world.settings.keys["reader"].file, ("--once", "--interval", "0.1", "--url", url)

    done = await _invoke(*words, "--key-file", str(key), columns="80")

    assert "questions/call" in done.output


async def test_a_key_without_the_scope_is_an_error_and_not_an_empty_frame(
    world: Any, url: str
) -> None:
    key = world.settings.keys["trainer"].file

    done = await _invoke("--once", "--url", url, "--key-file", str(key))

    assert "needs ['dispatcher', 'reader']" in str(done.exception)


async def test_a_sample_has_the_services_of_the_gateway(world: Any) -> None:
    sample = await take_sample(world.clients["reader"])

    assert [status.name for status in sample.services] == ["executor", "teacher", "uniform"]
    assert sample.gauge("preceptor_queue_depth", service="uniform") == 0.0
