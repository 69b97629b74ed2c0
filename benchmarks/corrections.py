"""What corrections are worth on problems that the student never solves, and in which form.

    python benchmarks/corrections.py [--folder DIR] [--only SEED] [--validation] [--tiny]

A scripted person corrects failed attempts at such problems through the queue's HTTP API while the
run goes on; a share is corrected by a second one too, blindly, and decided by a reviewer. All arms
train on the same problems, with as many fresh attempts a step and the same number of response
tokens, sampled or given; what corrections bring is added in one of three forms, or not at all:

    none       the executor's feedback alone, as in the quickstart
    targets    labels where an edit departs, and on what the person wrote from there on
    sft        the corrected texts, every token of them a label
    feedback   the corrected text in the self-teacher's view

All problems are of one kind, three features or a fold, and of that kind those that the untrained
student never solves. They are found by its probability of the known right answers, and then by
attempts that are not counted: none of 128 may succeed. Success is measured on held-out ones, by
fresh attempts; nobody trains on them.

One JSON file per finished cell: started again, it goes on. `--only` runs some of the seeds and
publishes nothing, so that processes with folders of their own can share the work; their `cells`
and the files `never-solved-*.json` in one folder are then the whole. `--validation` measures on
the validation split, with seeds of its own: what a setting is chosen by. Writes
`benchmarks/results/corrections.json`, `docs/figures/corrections-experiment.png` and
`docs/explanation/corrections-experiment.md`; with `--tiny` one seed of a toy size, into the folder
alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import typer
from corrections_people import ANSWER_S, Office, traced
from corrections_report import publish, summarise
from rich.console import Console

from preceptor_clients.contract.deployment import (
    DeployedKey,
    local_key,
    parse_deployment,
    to_toml,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.collect.context import PapersContext
from preceptor_trainer.collect.labelling import ExpertUse, Labelled
from preceptor_trainer.collect.participant import Participant, RunContext, StepContext
from preceptor_trainer.collect.people.labels import GROUPS_FROM
from preceptor_trainer.collect.people.people import People, PeopleConfig
from preceptor_trainer.collect.people.selection import Failed
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.deployment.local import LocalDeployment
from preceptor_trainer.evaluation.held_out import Evaluation, EvaluationConfig
from preceptor_trainer.experiments.compare.budget import Budget, WithinBudget, spent
from preceptor_trainer.experiments.compare.method import Service
from preceptor_trainer.experiments.compare.services import RUNS, self_teacher, write_deployment
from preceptor_trainer.experiments.solve.base_rates import student_sha256
from preceptor_trainer.experiments.solve.never_solved import (
    find_never_solved,
    load_never_solved,
    path_of,
)
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.loop import Trainer
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.recipes.problem_streams import Fixed
from preceptor_trainer.recipes.quickstart import TYPICAL_LENGTH
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.run.watching.progress import Progress
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.behaviour import Split
from preceptor_trainer.tasks.programming_by_example.problems import Problem
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING

FORMS: Final[dict[str, dict[str, Any]]] = {
    "targets": {"expert": "people", "labels": True, "takeover": True},
    "sft": {"expert": "people-sft", "labels": False, "takeover": True},
    "feedback": {"expert": "people", "labels": False, "takeover": False, "feedback": True},
}
MOST_STEPS: Final = 1_000
KEYS: Final = {
    "admin": local_key("admin"),
    "people": DeployedKey(
        file=Path("keys/people-expert.key"), scopes=("expert",), service=("people", "people-sft")
    ),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a cell's numbers depend on, beside arm, seed and problems."""

    seeds: int = 5
    num_corrections: int = 256
    fewer: int = 64
    """Corrections of one more run of the first form: the gain against their number."""
    measured_on: Split = "held_out"
    train_problems: int = 256
    measured_problems: int = 160
    chance_below: float = 0.003
    """Of the student's probability of all known right answers: worth 128 attempts."""
    attempts: int = 128
    """None of so many succeeded."""
    tokens: int = 48_000
    lr: float = 1e-3
    future: Literal["ce", "kl", "none"] = "none"
    """Of DistIL: costs-to-go shorten responses where no attempt ever succeeds."""
    rejoin_tokens: int = 1_000
    """More than a response has: what follows a person's first change is that person's. The student
    spells in bytes, where three in a row are soon the same by chance."""
    problems_per_step: int = 16
    rollouts_per_problem: int = 1
    corrected_per_step: int = 32
    double_share: float = 0.25
    samples: int = 8
    """Attempts at each measured problem, before and after."""


TINY: Final = Plan(
    seeds=1,
    num_corrections=4,
    fewer=2,
    train_problems=8,
    measured_problems=4,
    attempts=32,
    tokens=1_500,
    double_share=1.0,
    samples=4,
)
VALIDATION: Final = replace(Plan(), seeds=1, measured_on="validation")
FIRST_SEED: Final[dict[Split, int]] = {"held_out": 0, "validation": 100}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    arm: str
    corrections: int
    seed: int

    @property
    def name(self) -> str:
        """Of the run, and of its file."""
        return f"{self.arm}-{self.corrections}-{self.seed}"


# ---------------------------------------------------------------- one cell


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkedOn:
    """People who answer between two steps, so that runs can be compared."""

    people: PeopleConfig
    office: Office
    targets: dict[str, list[int]]
    """Filled with the labelled positions of each target that a correction has led to."""

    @property
    def adds_rollouts(self) -> bool:
        """As people do."""
        return True

    def join(self, run: RunContext) -> Participant:
        """The people of one run."""
        return _WorkedOn(self, self.people.join(run), run.name)


class _WorkedOn(Participant):
    def __init__(self, config: WorkedOn, people: People, run: str) -> None:
        self._config, self._people, self._run = config, people, run

    async def rollouts(self, at: StepContext) -> list[Rollout]:
        """As people's."""
        return await self._people.rollouts(at)

    async def labelled(self, at: StepContext, labelled: Sequence[Labelled]) -> list[Labelled]:
        """As people's; then what was sent to them is worked off."""
        rows = await self._people.labelled(at, labelled)
        for row in rows:
            if row.attempt.rollout.group >= GROUPS_FROM and row.target is not None:
                labelled_T = np.any([c.weight_T > 0 for c in row.target.components], axis=0)
                self._config.targets[row.target.id] = np.flatnonzero(labelled_T).tolist()
        await self._config.office.work_off(f"{self._run}-0")
        await self._config.office.wait_for_answers(self._people, self._run)
        return rows


class Experiment:
    """All cells, on one deployment."""

    def __init__(
        self, plan: Plan, folder: Path, console: Console, only: Sequence[int] | None = None
    ) -> None:
        self.plan, self.folder, self.console = plan, folder, console
        first = FIRST_SEED[plan.measured_on]
        self.seeds = only or range(first, first + plan.seeds)
        self.train: list[Problem] = []
        self.measured: list[Problem] = []

    def cells(self) -> list[Cell]:
        """Every arm and seed, seed by seed."""
        most, fewer = self.plan.num_corrections, self.plan.fewer
        rows = [("none", 0), *((form, most) for form in FORMS), ("targets", fewer)]
        return [Cell(arm=a, corrections=n, seed=s) for s in self.seeds for a, n in rows]

    def run(self) -> list[dict[str, Any]]:
        """Runs what is missing; returns every cell's result."""
        self.choose()
        missing = [c for c in self.cells() if not self._path(c).exists()]
        if missing:
            self._write_deployment()
            with LocalDeployment(self.folder, self.console) as deployment:
                asyncio.run(self._run(missing, deployment.gateway_url, deployment.key))
        results = [json.loads(self._path(cell).read_text()) for cell in self.cells()]
        for result in results:
            if result["plan"] != self._identity():
                raise SystemExit(
                    f"cell {result['name']} was made with another plan; use another --folder"
                )
        return results

    def _write_deployment(self) -> None:
        use = "preceptor_services.corrections.people_expert:PeopleExpert"
        options = {
            "config": str((self.folder / "resolved.toml").resolve()),
            "model": str(STUDENT_DIR),
            "poll_s": 0.3,
        }
        services = {
            "self-teacher": self_teacher(),
            "people": Service(use=use, options=options),
            "people-sft": Service(use=use, options={**options, "accepted": True}),
        }
        path = write_deployment(self.folder, services, STUDENT_DIR)
        deployment = parse_deployment(path.read_text())
        keys = {**deployment.keys, **KEYS}
        path.write_text(to_toml(deployment.model_copy(update={"keys": keys})))

    async def _run(self, missing: Sequence[Cell], url: str, key: str) -> None:
        async with GatewayClient(url, key) as gateway:
            admin_key = (self.folder / "keys" / "admin.key").read_text().strip()
            office = Office(url, admin_key, key, self.train)
            await office.open()
            for number, cell in enumerate(missing, start=1):
                result = await self._cell(cell, gateway, office)
                _write(self._path(cell), result)
                self.console.print(f"[{number}/{len(missing)}] {_line(result)}", highlight=False)
            await office.close()

    # ------------------------------------------------------------ problems

    def choose(self) -> None:
        """Finds the problems, or those found before."""
        plan, (train, measured) = self.plan, self._splits()
        self.train = self._never_solved(train, plan.train_problems)
        self.measured = self._never_solved(measured, plan.measured_problems)

    def _never_solved(self, split: Split, wanted: int) -> list[Problem]:
        if not path_of(self.folder, split).exists():
            below, attempts = self.plan.chance_below, self.plan.attempts
            found = find_never_solved(split, wanted, chance_below=below, attempts=attempts)
            found.save(self.folder)
        problems = load_never_solved(self.folder, split=split).problems()
        self.console.print(f"{split}: {len(problems)} never solved")
        return problems

    def _splits(self) -> tuple[Split, Split]:
        return "train", self.plan.measured_on

    # ------------------------------------------------------------ cells

    async def _cell(self, cell: Cell, gateway: GatewayClient, office: Office) -> dict[str, Any]:
        # A cell that was interrupted begins anew under another name: corrections of its first life
        # would be there from the first step on.
        run_dir = next(
            path
            for life in count(1)
            if not (path := self.folder / RUNS / f"{cell.name}-{life}").exists()
        )
        config = self._config(cell, run_dir.name)
        budget = Budget(unit="tokens", amount=self.plan.tokens)
        schedule = WithinBudget(inner=config.schedule, budget=budget, run_dir=run_dir)
        began, own = time.monotonic(), run_dir / "evaluations" / "before.json"
        shared = self.folder / "before" / f"{cell.seed}.json"
        if shared.exists() and not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shared, own)
        targets: dict[str, list[int]] = {}
        worked_on = tuple(
            WorkedOn(people=people, office=office, targets=targets)
            for people in config.participants
            if isinstance(people, PeopleConfig)
        )
        config = replace(config, schedule=schedule, participants=worked_on)
        await Trainer(config, run_dir, gateway, Progress(Console(quiet=True))).run()
        if not shared.exists():
            shared.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(own, shared)
        settled = await office.settled(config.name)
        lines = read_metrics(run_dir)
        result = {
            "name": cell.name,
            **asdict(cell),
            "plan": self._identity(),
            "steps": len(lines),
            "tokens": spent(lines, "tokens"),
            "training_s": spent(lines, "seconds"),
            "cell_s": time.monotonic() - began,
            "dropped_answers": sum(line["dropped_answers"] or 0.0 for line in lines),
            "settled": len(settled),
            "reviewed": sum(r.reviewer is not None for r in settled),
            "targets": await traced(gateway, office, targets),
            "num_train": len(self.train),
            "problem_ids": [p.id for p in self.measured],
            "before": _successes(own),
            "after": _successes(after := run_dir / "evaluations" / "after.json"),
            "length_after": float(Evaluation.load(after).lengths_PN.mean()),
        }
        for name in ("weights", "checkpoints", "tensorboard"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        return result

    def _config(self, cell: Cell, name: str) -> RunConfig:
        plan = self.plan
        per_step = min(plan.problems_per_step, len(self.train))
        form = FORMS.get(cell.arm)
        return RunConfig(
            name=name,
            seed=cell.seed,
            steps=MOST_STEPS,  # the budget of tokens ends the run
            model=STUDENT_DIR,
            problems=Fixed(problems=self.train, per_step=per_step)(cell.seed),
            rollouts_per_problem=plan.rollouts_per_problem,
            checkpoint_every=MOST_STEPS,
            evaluation=EvaluationConfig(problems=self.measured, num_samples=plan.samples, ks=(1,)),
            objective=DistIL(future=plan.future, length_constant=TYPICAL_LENGTH),
            optimiser=OptimiserConfig(lr=plan.lr, warmup_steps=4),
            experts=(ExpertUse(name="self-teacher"),),
            task=PROGRAMMING,
            timeout_s=ANSWER_S,
            threads=1,  # so that two seeds share two cores well
            context=PapersContext(demonstrations=False, own_solution=True),
            participants=()
            if form is None
            else (
                PeopleConfig(
                    select=Failed(per_problem=2),
                    round_steps=MOST_STEPS,
                    per_round=cell.corrections,
                    double_share=plan.double_share,
                    rejoin_tokens=plan.rejoin_tokens,
                    per_step=plan.corrected_per_step,
                    guidelines="Give an expression that fits all pairs; change little.",
                    **form,
                ),
            ),
        )

    def _path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.name}.json"

    def _identity(self) -> dict[str, Any]:
        """What all cells of one folder share."""
        chosen = "\n".join(path_of(self.folder, split).read_text() for split in self._splits())
        made_with = {
            **asdict(self.plan),
            "forms": FORMS,
            "student": student_sha256(STUDENT_DIR),
            "problems": hashlib.sha256(chosen.encode()).hexdigest()[:16],
        }
        # more seeds add cells and change none
        del made_with["seeds"]
        return made_with


def _successes(path: Path) -> list[int]:
    return [int(n) for n in Evaluation.load(path).successes_PN.sum(1)]


def _write(path: Path, value: object) -> None:
    write_whole(path, json.dumps(value) + "\n")


def _line(result: dict[str, Any]) -> str:
    samples = result["plan"]["samples"]
    before, after = (100 * np.mean(result[m]) / samples for m in ("before", "after"))
    targets = result["targets"]
    return (
        f"{result['name']}: {before:.1f} % -> {after:.1f} % in {result['steps']} steps, "
        f"{result['tokens']:.0f} tokens, {result['cell_s']:.0f} s; {result['settled']} settled, "
        f"{result['reviewed']} by review; {targets['traced']} of {targets['made']} targets traced"
    )


def main(
    folder: Annotated[Path, typer.Option(help="Cells and runs; finished cells are kept.")] = Path(
        "runs/corrections"
    ),
    only: Annotated[
        list[int] | None, typer.Option(help="Seeds to run; publishes nothing. Repeatable.")
    ] = None,
    validation: Annotated[
        bool, typer.Option(help="On the validation split, one seed, kept in the folder.")
    ] = False,
    tiny: Annotated[bool, typer.Option(help="One seed of a toy size, kept in the folder.")] = False,
) -> None:
    """Runs what is missing, then writes and prints the result."""
    plan = TINY if tiny else VALIDATION if validation else Plan()
    folder.mkdir(parents=True, exist_ok=True)
    results = Experiment(plan, folder, Console(), only).run()
    if not only:
        publish(summarise(results), folder if tiny or validation else None)


if __name__ == "__main__":
    typer.run(main)
