"""What each part costs, as the committed results of the benchmarks say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from reference.markdown import heading, join, table

_RESULTS: Final = Path(__file__).parents[2] / "benchmarks" / "results"
_INTRODUCTION: Final = """
# Measured cost of each part

The figures of the committed benchmarks, each with the machine that it ran on. They are read from
`benchmarks/results` when this site is built. Ratios hold elsewhere; rates are those of the machine.
[Sizing](../how-to/sizing.md) says how to use them.
"""
PARTS: Final = {
    "answer_path": ("Questions through gateway, broker, dispatcher and expert", "answer_path.py"),
    "answer_profile": (
        "Processor time of gateway and dispatcher by stage, in percent",
        "answer_profile.py",
    ),
    "serialisation": ("Answers as bytes", "serialisation.py"),
    "scoring_engine": (
        "Scoring by the experts' engine",
        "scoring_engine.py",
    ),
    "executor": ("Expressions judged by the executor", "executor.py"),
    "sandbox": ("Short programs in each rung of the sandbox", "sandbox.py"),
    "correction_queue": ("People at work in the correction queue", "correction_queue.py"),
}
"""Of each result: what was measured, and by which benchmark."""
_ABOUT_THE_MACHINE: Final = ("machine", "python", "kernel", "cpus", "load_average", "isolation")
_MOST_ROWS: Final = 90


def page() -> str:
    """The whole page."""
    return join(_INTRODUCTION.strip(), *(_part(name) for name in PARTS))


def _part(name: str) -> str:
    title, benchmark = PARTS[name]
    found = cast("dict[str, Any]", json.loads((_RESULTS / f"{name}.json").read_text()))
    link = f"[`benchmarks/{benchmark}`](../../benchmarks/{benchmark})"
    rows = list(figures(found))[:_MOST_ROWS]
    return join(
        heading(2, title, name),
        f"{link}, {machine(found)}",
        table(("figure", "value"), rows),
    )


def machine(result: Mapping[str, Any]) -> str:
    """The machine of a result, in words."""
    told = cast("dict[str, Any]", result.get("machine") or result)
    cores = told.get("cores", told.get("cpus"))
    load = told.get("load before", told.get("load_average"))
    if not cores:
        return "on a machine that the result does not describe."
    words = [f"on {told['cpu']}" if "cpu" in told else "on a machine with", f"{cores} cores"]
    words.append(f"Python {told['python']}" if "python" in told else "")
    words.append("" if load is None else f"load {load} before")
    return ", ".join(word for word in words if word).replace("with,", "with") + "."


def figures(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every number of a result with its name."""
    for key in ("figures", "ways", "rows"):
        if key in result:
            yield from _leaves("", result[key])
            return
    yield from _leaves("", {k: v for k, v in result.items() if k not in _ABOUT_THE_MACHINE})


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _leaves(f"{name}, {key}" if name else key, inner)
    elif isinstance(value, list):
        for row in cast("list[Any]", value):
            if isinstance(row, dict):
                yield from _row(cast("dict[str, Any]", row))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _row(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """One measured case: its words are its name, the numbers in `ms` its figures."""
    told = [f"{v}" for v in row.values() if isinstance(v, str)]
    told += [f"{k} {v:g}" for k, v in row.items() if isinstance(v, (int, float)) and k != "load"]
    yield from _leaves(", ".join(told), row.get("ms", {}))
