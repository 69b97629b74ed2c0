"""`preceptor try run.toml`: a few rows through every stage, without a step."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from preceptor_clients.cli.paste import pasted
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.sdk.context import find_template
from preceptor_trainer.commands.run_file import refused_plainly, write_deployment
from preceptor_trainer.data.epochs import Epochs
from preceptor_trainer.data.rows import Row, Rows
from preceptor_trainer.deployment.failures import said_plainly
from preceptor_trainer.deployment.local import SELF_TEACHER, LocalDeployment
from preceptor_trainer.kit.placement import placement
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.loop import Trainer
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.needs.memory_plan import memory_plan
from preceptor_trainer.run.watching.progress import Progress
from preceptor_trainer.runfile.building import Built, build
from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.teachers import LARGER_MODEL
from preceptor_trainer.trial.findings import findings
from preceptor_trainer.trial.page import show
from preceptor_trainer.trial.stages import TeacherView, Trial, trial_config, tried


def try_command(
    file: Annotated[Path, typer.Argument(help="The run's TOML file.")],
    rows: Annotated[int, typer.Option(min=1, help="Training rows that are tried.")] = 4,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Replaces a key of the file; the value is TOML or a bare word.",
        ),
    ] = None,
) -> None:
    """Shows what a run would do with a few rows, and finds mistakes, before anything is trained.

    Prompts, responses, judgements, what the teacher sees and says, the loss. Nothing is kept. The
    exit status is 1 where a mistake was found.
    """
    console = Console()
    pairs = set_ or []
    with tempfile.TemporaryDirectory(prefix="preceptor-try-") as name:
        run_dir = Path(name) / "try"
        with refused_plainly():
            run_file = read_run_file(file, pairs)
            built = build(run_file, file.resolve().parent, name="try", run_dir=run_dir)
            config = trial_config(built.config, rows)
        options = [word for pair in pairs for word in ("--set", pair)]
        with said_plainly(lambda: "nothing is kept", pasted("try", file, *options)):
            write_deployment(run_dir, built.deployment)
            with LocalDeployment(run_dir, console) as local:
                trial = asyncio.run(_tried(config, built, run_dir, local))
    for note in built.notes:
        console.print(f"note    {note}", markup=False, soft_wrap=True, highlight=False)
    found = findings(
        trial,
        _training_rows(built),
        _held_out_rows(built),
        reference=run_file.data.reference,
        prompt=run_file.data.prompt,
    )
    show(trial, found, memory_plan(built.config), console)
    if any(finding.is_mistake for finding in found):
        raise typer.Exit(1)
    typer.echo(f"train:  {pasted('train', file, *options)}")


async def _tried(config: RunConfig, built: Built, run_dir: Path, local: LocalDeployment) -> Trial:
    async with GatewayClient(local.gateway_url, local.key) as gateway:
        with Progress() as progress:
            trainer = Trainer(config, run_dir, gateway, progress)
            try:
                return await tried(trainer, _training_rows(built), _views(built))
            finally:
                await trainer.close()


def _views(built: Built) -> dict[str, TeacherView]:
    """The teachers on this machine, which can answer by themselves."""
    config = built.config
    views: dict[str, TeacherView] = {}
    for name, service in built.deployment.experts.items():
        options: dict[str, Any] = service.options
        if service.use not in (SELF_TEACHER, LARGER_MODEL):
            continue
        policy = None
        if service.use == LARGER_MODEL:
            place = placement(device=config.device, dtype=config.dtype)
            variables = config.chat_template_kwargs
            policy = Policy(Path(options["model"]), place, chat_template_kwargs=variables)
        views[name] = TeacherView(
            template=find_template(options["template"]),
            temperature=options.get("temperature", 1.0),
            reads_feedback=options.get("reads_feedback", True),
            policy=policy,
        )
    return views


def _training_rows(built: Built) -> Sequence[Row]:
    problems = built.config.problems
    assert isinstance(problems, Epochs), "a run's file always has epochs of rows"
    return problems.rows


def _held_out_rows(built: Built) -> Sequence[Row]:
    evaluation = built.config.evaluation
    problems = () if evaluation is None else evaluation.problems
    return problems if isinstance(problems, Rows) else ()
