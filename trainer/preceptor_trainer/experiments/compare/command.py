"""`preceptor compare`: runs the missing cells of a comparison, and writes its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from preceptor_clients.cli.paste import pasted
from preceptor_trainer.deployment.failures import said_plainly
from preceptor_trainer.evaluation.held_out import NotGraded
from preceptor_trainer.experiments.compare.analysis import analyse
from preceptor_trainer.experiments.compare.budget import Budget, Unit
from preceptor_trainer.experiments.compare.cells import MadeOtherwise
from preceptor_trainer.experiments.compare.method import Method, RateFrom
from preceptor_trainer.experiments.compare.page import write_comparison
from preceptor_trainer.experiments.compare.plan import Comparison
from preceptor_trainer.experiments.compare.runner import Runner
from preceptor_trainer.experiments.compare.services import RUNS, NoModel
from preceptor_trainer.experiments.compare.tables import claims
from preceptor_trainer.kit.loading import load_named

_COMPARISONS: Final = "preceptor_trainer.recipes.comparisons"
_METHODS: Final = "preceptor_trainer.recipes.methods"


def compare_command(
    comparison: Annotated[
        str,
        typer.Argument(help="A function that returns a Comparison: its name, or module:function."),
    ] = "fast",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; an unfinished one is continued.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Only these, comma-separated: names, or module:METHOD; the first leads."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N-1.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget of a run in steps.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Budget of a run in seconds of training.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Budget of a run in sampled tokens.")
    ] = None,
    search: Annotated[
        bool, typer.Option(help="Search each method's learning rate; else the middle one.")
    ] = True,
    rates_of: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="compare.json of a comparison that searched: its learning rates, no search.",
        ),
    ] = None,
) -> None:
    """Trains every method on every seed and compares them on the same held-out problems."""
    console = Console()
    folder = out or Path("runs/compare") / comparison.rpartition(":")[2]
    try:
        budget = _budget(steps, seconds, tokens)
        planned = load_named(comparison, "COMPARISON", home=_COMPARISONS)(folder)
        planned = _overridden(planned, methods, seeds, budget)
        planned = _without_search(planned, search, rates_of)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        with said_plainly(
            lambda: kept_in(folder), pasted(*sys.argv[1:]), also=(NoModel, NotGraded)
        ):
            found = Runner(planned, folder, console).run()
    except MadeOtherwise as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error
    analysis = analyse(planned, *found)
    page = write_comparison(analysis, folder)
    for claim in claims(analysis):
        console.print(f"- {claim}", highlight=False)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)


def kept_in(folder: Path) -> str:
    """What a comparison that ends now leaves behind."""
    finished = len(list((folder / "cells").glob("*.json")))
    begun = len(list((folder / RUNS).glob("*/made_with.json")))
    if not begun and not finished:
        return f"{folder} has nothing finished yet"
    runs = f"{finished} finished run{'s' if finished != 1 else ''}"
    return f"{folder} keeps {runs}; the one that was running goes on from its last checkpoint"


def _overridden(
    planned: Comparison,
    methods: str | None,
    seeds: int | None,
    budget: Budget | None,
) -> Comparison:
    if methods is not None:
        planned = replace(planned, methods=tuple(load_method(n) for n in methods.split(",")))
    if seeds is not None:
        planned = replace(planned, seeds=tuple(range(seeds)))
    if budget is not None:
        planned = replace(planned, budget=budget)
    return planned


def _without_search(planned: Comparison, search: bool, rates_of: Path | None) -> Comparison:
    if rates_of is not None and not search:
        raise ValueError(
            "rates_of: cannot be used with --no-search, since both choose the learning rates"
        )
    if rates_of is not None:
        return replace(planned, methods=with_rates_of(rates_of, planned.methods))
    if not search:
        return replace(planned, methods=tuple(with_middle_rate(m) for m in planned.methods))
    return planned


def with_rates_of(report: Path, methods: Sequence[Method]) -> tuple[Method, ...]:
    """The methods, each with the one rate that the comparison of a `compare.json` chose for it.

    Raises:
        ValueError: the file is not of a comparison, or lacks a method or its search.
    """
    try:
        analysis = json.loads(report.read_text())
        origin = f"{analysis['comparison']}, {analysis['budget']} a run"
        found = {
            name: (float(m["lr"]), bool(m["lr_at_edge"]), len(m["lr_search"]))
            for name, m in analysis["methods"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"rates_of: {report} is not a compare.json") from error
    missing = [method.name for method in methods if method.name not in found]
    if missing:
        raise ValueError(f"rates_of: {report} has no {', '.join(missing)}")
    unsearched = [method.name for method in methods if not found[method.name][2]]
    if unsearched:
        raise ValueError(f"rates_of: {report} did not search the rates of {', '.join(unsearched)}")
    return tuple(
        replace(
            method,
            learning_rates=(found[method.name][0],),
            rate_from=RateFrom(comparison=origin, at_edge=found[method.name][1]),
        )
        for method in methods
    )


def with_middle_rate(method: Method) -> Method:
    """The method with one learning rate, so that there is nothing to search.

    Of an even number the lower of the two in the middle.
    """
    rates = method.learning_rates
    return replace(method, learning_rates=(rates[(len(rates) - 1) // 2],))


def load_method(path: str) -> Method:
    """A method by its name in this package, or by `module:METHOD`."""
    name = path.strip()
    spelled = name if ":" in name else name.upper().replace("-", "_")
    found: Any = load_named(spelled, "METHODS", home=_METHODS)
    if not isinstance(found, Method):
        raise ValueError(f"methods: {name!r} is a {type(found).__name__}, no Method")
    return found


def _budget(steps: int | None, seconds: float | None, tokens: int | None) -> Budget | None:
    given: dict[Unit, float | None] = {"steps": steps, "seconds": seconds, "tokens": tokens}
    named: list[tuple[Unit, float]] = [
        (unit, amount) for unit, amount in given.items() if amount is not None
    ]
    if len(named) > 1:
        raise ValueError(f"budget: one of steps, seconds and tokens, not {[u for u, _ in named]}")
    return Budget(unit=named[0][0], amount=named[0][1]) if named else None
