"""`preceptor eval run.toml`: pass@k of a model or of a run's version on held-out rows."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from preceptor_clients.cli.paste import pasted
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.commands.run_file import refused_plainly, write_deployment
from preceptor_trainer.deployment.failures import said_plainly
from preceptor_trainer.deployment.local import LocalDeployment
from preceptor_trainer.evaluation.held_out import Evaluation, NotGraded
from preceptor_trainer.evaluation.samples import write_samples
from preceptor_trainer.loop import Trainer
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.evaluations import ALONE
from preceptor_trainer.run.export import loadable
from preceptor_trainer.run.watching.progress import Progress
from preceptor_trainer.runfile.building import build
from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.schema import RunFile


def eval_command(
    file: Annotated[Path, typer.Argument(help="The run's TOML file.")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="RUN@STEP, RUN@best or RUN, where RUN is a run's folder; the file's own model "
            "where absent."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Rows to answer, in any form of `data.eval`; `data.eval` where absent."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of each row; `run.eval_samples` if absent.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Replaces a key of the file, such as rollout.temperature=0.7.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file for the result; the responses are written beside it."),
    ] = None,
) -> None:
    """Answers rows and judges the answers: pass@k with 95 % intervals. Trains nothing."""
    pairs = list(set_ or [])
    if data is not None:
        place = Path(data)
        pairs.append(f"data.eval={json.dumps(str(place.resolve()) if place.exists() else data)}")
    if samples is not None:
        pairs.append(f"run.eval_samples={samples}")
    console = Console()
    with tempfile.TemporaryDirectory(prefix="preceptor-eval-") as name:
        run_dir = Path(name) / "eval"
        with refused_plainly():
            run_file = read_run_file(file, pairs)
            if weights is not None:
                run_file = _with_model(run_file, weights, Path(name))
            run_file, said = _drawn_here(run_file)
            built = build(run_file, file.resolve().parent, name="eval", run_dir=run_dir)
            config = _config(built.config)
        for note in [*built.notes, *said]:
            console.print(f"note  {note}", markup=False, soft_wrap=True, highlight=False)
        words = _words(weights, data, samples, set_)
        with said_plainly(
            lambda: "nothing is kept", pasted("eval", file, *words), also=(NotGraded,)
        ):
            write_deployment(run_dir, built.deployment.model_copy(update={"experts": {}}))
            with LocalDeployment(run_dir, console) as local:
                result = asyncio.run(_evaluated(config, run_dir, local))
    assert config.evaluation is not None
    summary = result.summary(config.evaluation.ks, config.seed)
    console.print(weights or str(config.model), markup=False, soft_wrap=True, highlight=False)
    console.print(_table(summary))
    if out is not None:
        result.save(out)
        write_samples(out, result.samples)
        kept = json.loads(out.read_text()) | {"weights": weights or str(config.model)} | summary
        write_whole(out, json.dumps(kept) + "\n")
        typer.echo(f"written: {out}")


def _with_model(run_file: RunFile, weights: str, room: Path) -> RunFile:
    """The file with a run's version as its model.

    Raises:
        ValueError: there is no such run or version.
    """
    path = str(loadable(weights, room).resolve())
    model = run_file.model.model_copy(update={"path": path})
    return run_file.model_copy(update={"model": model})


def _drawn_here(run_file: RunFile) -> tuple[RunFile, list[str]]:
    """The file without a server that runs share, and a note of it."""
    sampler = run_file.rollout.sampler
    if sampler is None or not sampler.shared:
        return run_file, []
    # It takes adapters alone, and what is evaluated is a whole version.
    rollout = run_file.rollout.model_copy(update={"sampler": None})
    note = "rollout.sampler is shared with runs: responses are drawn in this process"
    return run_file.model_copy(update={"rollout": rollout}), [note]


def _config(config: RunConfig) -> RunConfig:
    """The run's configuration, for an evaluation alone.

    Raises:
        ValueError: nothing is held out, or nobody judges.
    """
    if config.evaluation is None:
        raise ValueError(
            "data.eval: is missing, or no source of [feedback] judges; name the rows with --data"
        )
    return replace(config, steps=1, optimiser=replace(config.optimiser, decay_until=None))


async def _evaluated(config: RunConfig, run_dir: Path, local: LocalDeployment) -> Evaluation:
    async with GatewayClient(local.gateway_url, local.key) as gateway:
        with Progress() as progress:
            trainer = Trainer(config, run_dir, gateway, progress)
            try:
                await trainer.publisher.start(config, trainer.learner, trainer.journal)
                result = await trainer.evaluate(ALONE)
            finally:
                await trainer.close()
    assert result is not None, "the configuration has an evaluation"
    return result


def _words(
    weights: str | None, data: str | None, samples: int | None, pairs: list[str] | None
) -> list[str]:
    given = [("--weights", weights), ("--data", data), ("--samples", samples)]
    words = [str(word) for flag, value in given if value is not None for word in (flag, value)]
    return [*words, *(word for pair in pairs or [] for word in ("--set", pair))]


def _table(summary: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "mean", "95 % interval"):
        table.add_column(column, justify="right" if column else "left")
    for name, found in summary.items():
        if name.startswith("pass@"):
            low, high = f"{found['low']:.1%}", f"{found['high']:.1%}"
            table.add_row(name, f"{found['mean']:.1%}", f"{low} to {high}")
    table.add_row("rows", str(summary["num_problems"]))
    table.add_row("samples of each", str(summary["num_samples"]))
    table.add_row("tokens of a response", f"{summary['mean_length']:.1f}")
    if summary["ungraded"]:
        table.add_row("samples without a grade", str(summary["ungraded"]))
    return table
