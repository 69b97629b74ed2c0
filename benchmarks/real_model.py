"""A model learns from an example's file: objectives by one changed word, TRL beside them.

    python examples/smollm2.py models/smollm2
    python benchmarks/real_model.py                                 # products: 3 seeds, 3 losses
    python benchmarks/real_model.py --trl grpo --trl sdpo --seed 0  # TRL beside them, one seed
    python benchmarks/real_model.py --example code                  # programs and their traces

    # how soon a pass@1 is reached, TRL beside ours
    python benchmarks/real_model.py --example quickstart --trl grpo --trl sdpo --every 5 --reach 0.3
    python benchmarks/real_model.py --method grpo --method sdpo --trl grpo --trl sdpo \\
        --every 4 --reach 0.25 --set data.eval_rows=50 \\
        --runs runs/multiply-trl --out benchmarks/results/multiply-trl.json     # 80 minutes

Each run is `preceptor train examples/EXAMPLE/run.toml --set objective.use=...`: 12 steps of 8
rows by 4 attempts, all held-out rows by 8 samples before and after. `quickstart` is the shipped
student in the quickstart's world (`quickstart_world.py`): 40 steps of 32 by 4, 200 by 16. All runs
of a seed begin with the same student and the same draws, so that the evaluation before is sampled
once. TRL trains the same model on the same questions with the same judge, batch, rate and number
of steps (`real_model_trl.py`, for products and the quickstart); its models are judged by
`preceptor eval` with the same draws.

Finished runs are kept and not repeated. Writes `benchmarks/results/EXAMPLE.json` with the raw
successes of each row. Intervals: 95 % percentile bootstrap over seeds and rows together.
A step's seconds are its collection, update and publication; evaluations are apart. So are they in
the seconds until a pass@1 is reached, which end with the step before the first evaluation that has
it; the start of trainer and services is not in them either. Peak memory is the resident memory of
the trainer, and of it with its services, looked at twice a second. Ours also evaluates in its
process, so that the most memory of its steps is there too, as the run recorded it.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import psutil
import typer
from quickstart import machine
from quickstart_world import METHOD_SETTINGS, write_world

from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.evaluation.pass_at_k import mean_interval, paired_difference
from preceptor_trainer.run.watching.metrics_log import read_metrics

HERE: Final = Path(__file__).parent
TRL: Final = "TRL's "
QUICKSTART: Final = "quickstart"
KS: Final = (1, 8)
LOOK_S: Final = 0.5
GIB: Final = 1 << 30


class Example(NamedTuple):
    """A folder of `examples/`, or the quickstart's world; its runs are kept in `runs`."""

    name: str
    runs: Path
    settings: list[str]
    """Keys of the file, for every run."""
    every: int | None
    """Steps between evaluations, beside those before and after."""
    reach: float
    """The pass@1 whose time is asked for."""

    def run_file(self, seed: int) -> Path:
        """What is trained with a seed."""
        if self.name == QUICKSTART:
            return write_world(self.runs / f"seed-{seed}" / "world", seed)
        return HERE.parent / "examples" / self.name / "run.toml"

    def pairs(self, seed: int) -> list[str]:
        """Keys of the file for the runs of a seed."""
        return [f"run.seed={seed}", *self.settings]

    def method_pairs(self, method: str) -> list[str]:
        """Keys of the file for the runs of one of our objectives."""
        every = [] if self.every is None else [f"run.eval_every={self.every}"]
        own = METHOD_SETTINGS.get(method, []) if self.name == QUICKSTART else []
        return [f"objective.use={method}", *own, *every]


def main(
    example: Annotated[str, typer.Option(help="multiply, code or quickstart.")] = "multiply",
    seed: Annotated[list[int] | None, typer.Option(help="One of the seeds; 0, 1, 2.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="One of the objectives; distil, grpo, sdpo.")
    ] = None,
    trl: Annotated[
        list[str] | None, typer.Option(help="One of TRL's trainers: grpo, sdpo; none.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Where runs are kept; runs/EXAMPLE-all.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Keys of the file, for every run.")
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, help="Steps between evaluations; none between.")
    ] = None,
    reach: Annotated[float, typer.Option(help="The pass@1 whose time is asked for.")] = 0.25,
    out: Annotated[
        Path | None,
        typer.Option(help="benchmarks/results/EXAMPLE.json, or quickstart-trl.json."),
    ] = None,
) -> None:
    """Runs what is missing, then writes and prints the result."""
    if trl and example == "code":
        raise typer.BadParameter("TRL trains on multiply and quickstart", param_hint="--trl")
    chosen = Example(example, runs or Path(f"runs/{example}-all"), set_ or [], every, reach)
    # quickstart.json is of the quickstart's own benchmark.
    file = "quickstart-trl" if example == QUICKSTART else example
    target = out or HERE / "results" / f"{file}.json"
    seeds = [0, 1, 2] if seed is None else seed
    methods = [*(method or ["distil", "grpo", "sdpo"]), *(TRL + name for name in trl or [])]
    for one in seeds:
        for name in methods:
            folder = chosen.runs / f"seed-{one}" / name.replace("'", "").replace(" ", "-")
            run_once(chosen, name, folder, one)
            print(line_of(chosen, name, one, folder), flush=True)
            # After each run, so that an interrupted series leaves a result too.
            result = summarised(chosen)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(result, indent=1) + "\n")
    for name, found in result["methods"].items():
        times = found[_reached(chosen)]
        print(f"{name:12} {len(found['seeds'])} seeds  {_words(found['intervals'])}")
        print(f"{'':12} {_reached(chosen)}: {', '.join(_seconds(one) for one in times)}")
    print(f"written: {target}")


def run_once(example: Example, name: str, folder: Path, seed: int) -> None:
    """One run with its two evaluations, unless it is there."""
    if (folder / "measured.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    ours, file = example.pairs(seed), str(example.run_file(seed))
    if name.startswith(TRL):
        words = ["--file", file, "--out", str(folder), *_pairs(ours)]
        words += [] if example.every is None else ["--every", str(example.every)]
        command = [str(HERE / "real_model_trl.py"), name.removeprefix(TRL), *words]
        measured = watched([sys.executable, *command], folder / "train.log")
        for model in sorted((folder / "models").iterdir()):
            evaluate(file, model, ours)
    else:
        share_evaluation_before(example, folder)
        pairs = [*ours, *example.method_pairs(name), f"run.folder={folder.resolve()}"]
        command = ["-m", "preceptor_clients.cli", "train", file, *_pairs(pairs)]
        measured = watched([sys.executable, *command], folder / "train.log")
    (folder / "measured.json").write_text(json.dumps({**measured, "commit": commit()}) + "\n")
    for weights in (
        "checkpoints",
        "weights",
        "models",
    ):  # gigabytes each, and read by nothing below
        shutil.rmtree(folder / example.name / weights, ignore_errors=True)
        shutil.rmtree(folder / weights, ignore_errors=True)


def _pairs(settings: list[str]) -> list[str]:
    return _options("--set", settings)


def _options(flag: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]


def commit() -> str:
    """The code that ran, because runs are kept for longer than code."""
    head = ("git", "describe", "--always", "--dirty", "--exclude=*")
    return subprocess.run(head, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


def watched(command: list[str], log: Path) -> dict[str, float]:
    """Runs a command and looks at its memory; returns seconds, CPU seconds and peaks in GiB.

    Raises:
        subprocess.CalledProcessError: it failed; its output is in `log`.
    """
    began, cpu_began = time.monotonic(), _cpu_of_children()
    own, together = 0, 0
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            sizes = _resident(process.pid)
            own, together = max(own, sizes[0]), max(together, sum(sizes))
            time.sleep(LOOK_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, log.read_text()[-4000:])
    return {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(_cpu_of_children() - cpu_began, 1),
        "peak_trainer_gib": round(own / GIB, 2),
        "peak_together_gib": round(together / GIB, 2),
    }


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident(pid: int) -> list[int]:
    """Resident bytes of a process, then of each of its descendants."""
    sizes: list[int] = []
    try:
        trainer = psutil.Process(pid)
        for process in (trainer, *trainer.children(recursive=True)):
            sizes.append(process.memory_info().rss)
    except psutil.NoSuchProcess:
        pass  # it ended while it was looked at
    return sizes or [0]


def evaluate(file: str, model: Path, settings: list[str]) -> None:
    """One of TRL's models, `FOLDER/models/LABEL`, on the held-out rows: `FOLDER/LABEL.json`."""
    out = (model.parent.parent / f"{model.name}.json").resolve()
    words = ["--out", str(out), *_pairs([*settings, f"model.path={model.resolve()}"])]
    command = [sys.executable, "-m", "preceptor_clients.cli", "eval", file, *words]
    with out.with_suffix(".log").open("w") as output:
        subprocess.run(command, check=True, stdout=output, stderr=subprocess.STDOUT)


def share_evaluation_before(example: Example, folder: Path) -> None:
    """Copies the evaluation of the untrained student from another run of the seed."""
    target = folder / example.name / "evaluations"
    if (target / "before.json").exists():
        return
    for other in folder.parent.glob(f"*/{example.name}/evaluations/before.json"):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, target)
        return


def evaluations(example: Example, folder: Path) -> tuple[Evaluation, Evaluation]:
    """Before and after."""
    before = next(folder.parent.glob(f"*/{example.name}/evaluations/before.json"))
    after = evaluation_files(example, folder)["after"]
    return Evaluation.load(before), Evaluation.load(after)


def evaluation_files(example: Example, folder: Path) -> dict[str, Path]:
    """Every evaluation of a run after its first step: `step-N` and `after`."""
    ours = folder / example.name / "evaluations"
    place = ours if ours.exists() else folder
    return {path.stem: path for path in (*place.glob("step-*.json"), place / "after.json")}


def summarised(example: Example) -> dict[str, Any]:
    """Everything from the finished runs' raw evaluations."""
    folders = sorted(path.parent for path in example.runs.glob("seed-*/*/measured.json"))
    names = {folder.name: _method(folder.name) for folder in folders}
    ours = next(folder for folder in folders if (folder / example.name).exists())
    chosen = [] if example.name == "multiply" else ["--example", example.name]
    summary = json.loads((ours / example.name / "summary.json").read_text())
    every = [] if example.every is None else ["--every", str(example.every)]
    trl = [name.removeprefix(TRL) for name in names.values() if name.startswith(TRL)]
    words = [
        *chosen,
        *_options("--trl", trl),
        *_pairs(example.settings),
        *every,
        "--reach",
        str(example.reach),
    ]
    return {
        "command": " ".join(["python benchmarks/real_model.py", *words]),
        "machine": machine(),
        "versions": summary["versions"] | {"trl": version("trl")},
        "run_file": example.run_file(0).read_text(),
        "methods": {
            names[name]: summary_of(example, [f for f in folders if f.name == name])
            for name in names
        },
    }


def _method(folder: str) -> str:
    return folder.replace("TRLs-", TRL)


def summary_of(example: Example, folders: list[Path]) -> dict[str, Any]:
    """One method over its seeds."""
    pairs = [evaluations(example, folder) for folder in folders]
    intervals: dict[str, Any] = {}
    for k in KS:
        before, after = (np.stack([pair[i].pass_at(k) for pair in pairs]) for i in (0, 1))
        intervals[f"pass@{k} before"] = asdict(mean_interval(before, seed=0))
        intervals[f"pass@{k} after"] = asdict(mean_interval(after, seed=0))
        intervals[f"pass@{k} gain"] = asdict(paired_difference(before, after, seed=0))
    runs = [run_of(example, folder) for folder in folders]
    return {
        "seeds": [int(folder.parent.name.removeprefix("seed-")) for folder in folders],
        "intervals": intervals,
        _reached(example): [seconds_until(run["course"], example.reach) for run in runs],
        "runs": runs,
    }


def run_of(example: Example, folder: Path) -> dict[str, Any]:
    """One run's figures."""
    before, after = evaluations(example, folder)
    measured = json.loads((folder / "measured.json").read_text())
    return {
        "pass@1": [float(one.pass_at(1).mean()) for one in (before, after)],
        "pass@8": [float(one.pass_at(8).mean()) for one in (before, after)],
        "tokens of a response": [float(one.lengths_PN.mean()) for one in (before, after)],
        "seconds_per_step": round(float(np.mean(step_seconds(example, folder))), 2),
        "course": course(example, folder),
        **measured,
        "peak_of_steps_gib": peak_of_steps(example, folder) or measured["peak_trainer_gib"],
        "successes_of_8": [one.successes_PN.sum(1).tolist() for one in (before, after)],
    }


def peak_of_steps(example: Example, folder: Path) -> float | None:
    """Most memory of one of our trainers outside of evaluations; None where no run recorded it."""
    path = folder / example.name / "summary.json"
    peaks = json.loads(path.read_text()).get("peak_bytes") if path.exists() else None
    if not peaks:
        return None
    return round(max(held for phase, held in peaks.items() if phase != "evaluation") / GIB, 2)


def course(example: Example, folder: Path) -> list[dict[str, float]]:
    """The evaluations after the first step, each with the seconds of the steps before it."""
    seconds = step_seconds(example, folder)
    files = evaluation_files(example, folder)
    steps = {
        len(seconds) if name == "after" else _number(name): file for name, file in files.items()
    }
    return [
        {
            "steps": step,
            "seconds": round(sum(seconds[:step]), 1),
            "pass@1": float(Evaluation.load(steps[step]).pass_at(1).mean()),
        }
        for step in sorted(steps)
    ]


def _number(label: str) -> int:
    return int(label.removeprefix("step-"))


def seconds_until(course: list[dict[str, float]], reach: float) -> float | None:
    """Seconds of the steps before the first evaluation with that pass@1; None where none has it."""
    return next((at["seconds"] for at in course if at["pass@1"] >= reach), None)


def _reached(example: Example) -> str:
    return f"seconds until pass@1 of {example.reach}"


def _seconds(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.0f}"


def step_seconds(example: Example, folder: Path) -> list[float]:
    """Of each step, without evaluations."""
    ours = folder / example.name
    if not ours.exists():
        trained = json.loads((folder / "trained.json").read_text())
        # Runs that were kept since before steps were timed one by one have their mean alone.
        return trained.get("seconds") or [trained["seconds_per_step"]] * trained["steps"]
    return [
        sum(value for key, value in line.items() if key.startswith("seconds/"))
        for line in read_metrics(ours)
    ]


def line_of(example: Example, name: str, seed: int, folder: Path) -> str:
    """One finished run in a line."""
    run = run_of(example, folder)
    first, last = ([f"{run[key][i]:.1%}" for key in ("pass@1", "pass@8")] for i in (0, 1))
    return (
        f"seed {seed}  {name:12} pass@1 {first[0]} -> {last[0]}  pass@8 {first[1]} -> {last[1]}  "
        f"{run['seconds_per_step']:.1f} s a step  {run['peak_trainer_gib']:.1f} GiB  "
        f"{run['seconds']:.0f} s in all, {run['cpu_seconds']:.0f} of CPU"
    )


def _words(intervals: dict[str, Any]) -> str:
    shown = {name: found for name, found in intervals.items() if name.endswith("gain")}
    return "  ".join(
        f"{name} {found['mean']:+.1%} ({found['low']:+.1%} to {found['high']:+.1%})"
        for name, found in shown.items()
    )


if __name__ == "__main__":
    typer.run(main)
