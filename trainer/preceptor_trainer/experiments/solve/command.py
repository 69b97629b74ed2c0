"""Attempts at single questions, three ways.

preceptor solve base-rates --split held_out --out runs/solve
preceptor solve run --out runs/solve
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.console import Console

from preceptor_clients.cli.paste import pasted
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.deployment.failures import said_plainly
from preceptor_trainer.deployment.local import LocalDeployment
from preceptor_trainer.evaluation.held_out import NotGraded
from preceptor_trainer.experiments.compare.services import self_teacher, write_deployment
from preceptor_trainer.experiments.solve.base_rates import (
    BASE_RATES,
    LEAST_SAMPLES,
    LOOK,
    BaseRates,
    load_base_rates,
    measure_base_rates,
)
from preceptor_trainer.experiments.solve.experiment import (
    DRIVERS,
    Bench,
    Experiment,
    claim_folder,
    is_complete,
    read_trajectories,
)
from preceptor_trainer.experiments.solve.never_solved import ATTEMPTS, find_never_solved
from preceptor_trainer.experiments.solve.report import analyse, tables, write_discovery
from preceptor_trainer.experiments.solve.session import Session
from preceptor_trainer.experiments.solve.test_time import SelfDistillation
from preceptor_trainer.experiments.solve.trajectory import DriverName
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.behaviour import Split
from preceptor_trainer.tasks.programming_by_example.problems import Problem, sample_problems

app: Final = typer.Typer(
    help="Attempts at single questions: best-of-k, multi-turn, training at test time.",
    no_args_is_help=True,
)
Out = Annotated[Path, typer.Option(help="Folder of the experiment; it is continued.")]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "held_out")


@app.command("base-rates")
def base_rates_command(
    out: Out = Path("runs/solve"),
    split: Annotated[str, typer.Option(help="train, validation or held_out.")] = "held_out",
    problems: Annotated[int, typer.Option(min=1, help="Problems of it.")] = 800,
    samples: Annotated[
        int, typer.Option(min=1, help="Attempts at each that may be in the tail.")
    ] = LEAST_SAMPLES,
    seed: Annotated[int, typer.Option(help="Seed of the problems.")] = 7,
) -> None:
    """Measures how often the student solves each problem, and finds the hard tail."""
    console, chosen = Console(), _split(split)

    async def measure(gateway: GatewayClient) -> None:
        rates = await measure_base_rates(
            await Session.open(gateway, run="base-rates", model=STUDENT_DIR),
            split=chosen,
            problems=sample_problems(chosen, count=problems, seed=seed),
            problems_seed=seed,
            num_samples=samples,
            samples_seed=0,
            console=console,
        )
        rates.save(out / BASE_RATES)
        tail = f"{len(rates.hard_tail())} of" if samples >= LEAST_SAMPLES else "too few attempts at"
        console.print(f"hard tail: {tail} {problems}; {out / BASE_RATES}", soft_wrap=True)
        if missing := sum(rates.missing_P):
            console.print(f"{missing} attempts were not graded and count neither way")

    _with_services(out, console, measure)


@app.command("never-solved")
def never_solved_command(
    out: Out = Path("runs/compare/all_fail"),
    split: Annotated[str, typer.Option(help="train, validation or held_out.")] = "train",
    problems: Annotated[int, typer.Option(min=1, help="So many, if there are.")] = 128,
    attempts: Annotated[
        int, typer.Option(min=LOOK, help=f"None of so many succeeds; a multiple of {LOOK}.")
    ] = ATTEMPTS,
) -> None:
    """Finds problems that the student never solves, among those with a low probability."""
    console, chosen = Console(), _split(split)

    def show(found: int) -> None:
        if found % LOOK == 0:
            console.print(f"never solved: {found} of {problems}", highlight=False)

    try:
        with said_plainly(lambda: "nothing was written", pasted(*sys.argv[1:])):
            found = find_never_solved(chosen, problems, attempts=attempts, on_progress=show)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--attempts") from error
    path = found.save(out)
    console.print(f"{len(found.problem_ids)} never solved; {path}", soft_wrap=True)


@app.command("run")
def run_command(
    out: Out = Path("runs/solve"),
    method: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(DRIVERS)}; all if not given.")
    ] = None,
    questions: Annotated[
        int, typer.Option(min=2, help="At most so many, in the order they were drawn.")
    ] = 20,
    attempts: Annotated[int, typer.Option(min=1, help="Where everything is censored.")] = 512,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1.")] = 5,
    group: Annotated[int, typer.Option(min=2, help="Attempts between two test-time steps.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate at test time.")] = 2e-4,
) -> None:
    """Runs the missing attempts on the hard tail, and reports discovery@k."""
    console = Console()
    try:
        rates = load_base_rates(out / BASE_RATES, split="held_out")
        rates.check_student(STUDENT_DIR)
        experiment = Experiment(
            problems=_questions(rates, questions),
            max_attempts=attempts,
            seeds=tuple(range(seeds)),
            drivers=cast("tuple[DriverName, ...]", tuple(method or DRIVERS)),
            test_time=SelfDistillation(group=group, lr=lr),
        )
        claim_folder(experiment, out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    # Existing results are not run again; if nothing is missing, no service is started.
    if not is_complete(experiment, out):
        _with_services(out, console, lambda g: Bench(experiment, out, g, console).run())
    analysis = analyse(experiment, rates, read_trajectories(experiment, out))
    path = write_discovery(analysis, out)
    if analysis["ungraded"]:
        console.print(f"{analysis['ungraded']} attempts were not graded and count neither way")
    for row in tables(analysis)[0].rows:
        console.print("  ".join(row), highlight=False, soft_wrap=True)
    console.print(f"report: {path}", soft_wrap=True, highlight=False)


def _questions(rates: BaseRates, most: int) -> list[Problem]:
    """Questions of the hard tail; refused before the run if too few for the report."""
    tail = rates.hard_tail()
    if len(tail) < 2:
        raise ValueError(
            f"problem_ids: {len(tail)} of {len(rates.problem_ids)} are in the hard tail; at least "
            "two are needed, so measure the base rates of more problems"
        )
    return tail[:most]


def _split(name: str) -> Split:
    if name not in SPLITS:
        raise typer.BadParameter(f"{name!r} is not one of {SPLITS}", param_hint="--split")
    return name


def kept_in(folder: Path) -> str:
    """What an experiment that ends now leaves behind."""
    rates = f"the base rates in {folder / BASE_RATES}" if (folder / BASE_RATES).exists() else ""
    cells = len(list((folder / "cells").glob("**/*.json")))
    results = f"{cells} finished result{'s' if cells != 1 else ''} in {folder / 'cells'}"
    kept = [what for what in (rates, results if cells else "") if what]
    return f"kept are {' and '.join(kept)}" if kept else f"{folder} has nothing finished yet"


def _with_services(
    folder: Path, console: Console, work: Callable[[GatewayClient], Awaitable[Any]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_deployment(folder, {"self-teacher": self_teacher()}, STUDENT_DIR)

    async def run(url: str, key: str) -> None:
        async with GatewayClient(url, key) as gateway:
            await work(gateway)

    with (
        said_plainly(lambda: kept_in(folder), pasted(*sys.argv[1:]), also=(NotGraded,)),
        LocalDeployment(folder, console) as deployment,
    ):
        asyncio.run(run(deployment.gateway_url, deployment.key))
