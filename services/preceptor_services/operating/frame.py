"""One frame of `preceptor top`: tables of services, of the newest run and of the gateway. Pure."""

from __future__ import annotations

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from preceptor_clients.contract.schemas import ServiceStatus
from preceptor_services.operating.sample import Interval

_OLD_S: Final = 60.0
_COLOURS: Final = {"ready": "green", "unreachable": "red", "refused": "red"}
_COLUMNS: Final = (
    *("service", "state", "jobs", "oldest", "answers/s", "failed/s", "cached"),
    *("tokens/s", "positions/s", "questions/call", "queue", "call"),
)


def frame(interval: Interval) -> Group:
    """The tables; rates are over the interval."""
    return Group(_services(interval), _notes(interval), _run(interval), _gateway(interval))


def _services(interval: Interval) -> Table:
    table = Table(box=SIMPLE_HEAD, title="services", title_justify="left")
    for number, heading in enumerate(_COLUMNS):
        # On a narrow terminal the figures are cut, never which service they are of.
        words = [status.name if number == 0 else status.state for status in interval.now.services]
        width = max(map(len, words), default=None) if number < 2 else None
        justify = "left" if number < 2 else "right"
        table.add_column(heading, justify=justify, no_wrap=True, min_width=width)
    for status in interval.now.services:
        table.add_row(*_service(interval, status))
    return table


def _service(interval: Interval, status: ServiceStatus) -> list[Text | str]:
    name = {"service": status.name}
    now = interval.now
    oldest_s = now.gauge("preceptor_queue_oldest_seconds", **name)
    late = oldest_s is not None and oldest_s > _OLD_S
    asked = interval.grown("preceptor_tickets_total", **name)
    cached = interval.grown("preceptor_tickets_total", outcome="cached", **name)
    return [
        status.name,
        Text(status.state, style=_COLOURS[status.state]),
        _number(_depth(interval, status)),
        Text(_seconds(oldest_s), style="red" if late else ""),
        _number(interval.rate("preceptor_answers_total", outcome="done", **name)),
        _number(interval.rate("preceptor_answers_total", outcome="failed", **name)),
        f"{100 * cached / asked:.0f} %" if asked else "-",
        _number(interval.rate("preceptor_call_tokens_sum", **name)),
        _number(interval.rate("preceptor_positions_total", **name)),
        _number(interval.mean("preceptor_call_questions", **name)),
        _seconds(interval.mean("preceptor_queued_seconds", **name)),
        _seconds(interval.mean("preceptor_call_seconds", **name)),
    ]


def _depth(interval: Interval, status: ServiceStatus) -> float | None:
    return interval.now.gauge("preceptor_queue_depth", service=status.name)


def _notes(interval: Interval) -> Text:
    """Why services are not ready, and why answers were refused."""
    lines = [
        f"{status.name}: {status.detail}"
        for status in interval.now.services
        if status.state != "ready" and status.detail
    ]
    if any(_depth(interval, status) is None for status in interval.now.services):
        lines.insert(0, "the broker does not answer: nothing is asked, and no queue can be read")
    for status in interval.now.services:
        for reason in interval.labels("preceptor_refusals_total", "reason", service=status.name):
            labels = {"service": status.name, "reason": reason}
            grown = interval.grown("preceptor_refusals_total", **labels)
            if grown:
                lines.append(f"{status.name}: {grown:.0f} refused: {reason}")
    return Text("".join(f"  {line}\n" for line in lines))


def _run(interval: Interval) -> Table | Text:
    if not interval.now.runs:
        return Text("no run is on record\n")
    run = interval.now.runs[0]
    table = Table(box=SIMPLE_HEAD, title="newest run", title_justify="left")
    for heading in ("run", "steps", "rollouts", "steps/min", "seconds of a step, by phase"):
        table.add_column(heading)
    table.add_row(
        run.run,
        str(run.steps),
        str(run.rollouts),
        _number(60 * interval.rate("preceptor_run_steps_total", run=run.run)),
        _phases(interval, run.run),
    )
    return table


def _phases(interval: Interval, run: str) -> str:
    """The mean since the gateway started: an interval seldom has a whole step."""
    steps = interval.now.total("preceptor_run_steps_total", run=run)
    if not steps:
        return "-"
    names = interval.labels("preceptor_run_seconds_total", "phase", run=run)
    seconds = {
        name: interval.now.total("preceptor_run_seconds_total", run=run, phase=name) / steps
        for name in names
    }
    slowest_first = sorted(seconds, key=lambda name: -seconds[name])
    return ", ".join(f"{name} {_seconds(seconds[name])}" for name in slowest_first)


def _gateway(interval: Interval) -> Text:
    now = interval.now
    seen_s = now.gauge("preceptor_dispatcher_seen_seconds")
    memory = now.gauge("process_resident_memory_bytes")
    words = (
        f"gateway: {_number(interval.rate('preceptor_requests_total'))} requests/s, "
        f"{'-' if memory is None else f'{memory / (1 << 20):.0f} MiB'}; "
        f"dispatchers: {'none has called' if seen_s is None else f'called {_seconds(seen_s)} ago'}"
    )
    return Text(words)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"
