"""A real model learns to multiply: objectives by one changed word, and TRL's trainers beside them.

    python examples/smollm2.py models/smollm2
    python benchmarks/multiply.py                                   # 3 seeds of 3 objectives
    python benchmarks/multiply.py --trl grpo --trl sdpo --seed 0    # TRL beside them, one seed

Each run is `preceptor train examples/multiply/run.toml --set objective.use=...`: 12 steps of 8
questions by 4 attempts, 100 held-out questions by 8 samples before and after. All runs of a seed
begin with the same student and the same draws, so that the evaluation before is sampled once. TRL
trains the same model on the same questions with the same judge, batch, rate and number of steps
(`multiply_trl.py`), and its model is judged by `preceptor eval` with the same draws.

Finished runs are kept and not repeated. Writes `benchmarks/results/multiply.json` with the raw
successes of each question. Intervals: 95 % percentile bootstrap over seeds and questions together.
A step's seconds are its collection, update and publication; evaluations are apart. Peak memory is
the resident memory of the trainer, and of it with its services, looked at twice a second.
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
from typing import Annotated, Any, Final

import numpy as np
import psutil
import typer
from quickstart import machine

from preceptor_trainer.evaluation.held_out import Evaluation
from preceptor_trainer.evaluation.pass_at_k import mean_interval, paired_difference

HERE: Final = Path(__file__).parent
RUN_FILE: Final = HERE.parent / "examples" / "multiply" / "run.toml"
RESULT: Final = HERE / "results" / "multiply.json"
NAME: Final = "multiply"
TRL: Final = "TRL's "
KS: Final = (1, 8)
LOOK_S: Final = 0.5
GIB: Final = 1 << 30


def main(
    seed: Annotated[list[int] | None, typer.Option(help="One of the seeds; 0, 1, 2.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="One of the objectives; distil, grpo, sdpo.")
    ] = None,
    trl: Annotated[
        list[str] | None, typer.Option(help="One of TRL's trainers: grpo, sdpo; none.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/multiply-all"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Keys of the file, for every run.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The result.")] = RESULT,
) -> None:
    """Runs what is missing, then writes and prints the result."""
    seeds = [0, 1, 2] if seed is None else seed
    methods = [*(method or ["distil", "grpo", "sdpo"]), *(TRL + name for name in trl or [])]
    for one in seeds:
        for name in methods:
            folder = runs / f"seed-{one}" / name.replace("'", "").replace(" ", "-")
            run_once(name, folder, one, set_ or [])
            print(line_of(name, one, folder), flush=True)
            # After each run, so that an interrupted series leaves a result too.
            result = summarised(runs, set_ or [])
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=1) + "\n")
    for name, found in result["methods"].items():
        print(f"{name:12} {len(found['seeds'])} seeds  {_words(found['intervals'])}")
    print(f"written: {out}")


def run_once(name: str, folder: Path, seed: int, settings: list[str]) -> None:
    """One run with its two evaluations, unless it is there."""
    if (folder / "measured.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    ours = [f"run.seed={seed}", *settings]
    if name.startswith(TRL):
        words = ["--seed", str(seed), "--out", str(folder), *_pairs(settings)]
        command = [str(HERE / "multiply_trl.py"), name.removeprefix(TRL), *words]
        measured = watched([sys.executable, *command], folder / "train.log")
        evaluate(folder / "model", folder / "after.json", ours, folder / "eval.log")
    else:
        share_evaluation_before(folder)
        pairs = [*ours, f"objective.use={name}", f"run.folder={folder.resolve()}"]
        command = ["-m", "preceptor_clients.cli", "train", str(RUN_FILE), *_pairs(pairs)]
        measured = watched([sys.executable, *command], folder / "train.log")
    (folder / "measured.json").write_text(json.dumps(measured) + "\n")
    for weights in ("checkpoints", "weights", "model"):  # gigabytes each, and read by nothing below
        shutil.rmtree(folder / NAME / weights, ignore_errors=True)
        shutil.rmtree(folder / weights, ignore_errors=True)


def _pairs(settings: list[str]) -> list[str]:
    return [word for pair in settings for word in ("--set", pair)]


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


def evaluate(model: Path, out: Path, settings: list[str], log: Path) -> None:
    """A folder's model on the held-out questions."""
    words = ["--out", str(out.resolve()), *_pairs([*settings, f"model.path={model.resolve()}"])]
    command = [sys.executable, "-m", "preceptor_clients.cli", "eval", str(RUN_FILE), *words]
    with log.open("w") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)


def share_evaluation_before(folder: Path) -> None:
    """Copies the evaluation of the untrained student from another run of the seed."""
    target = folder / NAME / "evaluations"
    if (target / "before.json").exists():
        return
    for other in folder.parent.glob(f"*/{NAME}/evaluations/before.json"):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(other, target)
        return


def evaluations(folder: Path) -> tuple[Evaluation, Evaluation]:
    """Before and after."""
    ours = folder / NAME / "evaluations"
    if ours.exists():
        return Evaluation.load(ours / "before.json"), Evaluation.load(ours / "after.json")
    before = next(folder.parent.glob(f"*/{NAME}/evaluations/before.json"))
    return Evaluation.load(before), Evaluation.load(folder / "after.json")


def summarised(runs: Path, settings: list[str]) -> dict[str, Any]:
    """Everything from the finished runs' raw evaluations."""
    folders = sorted(path.parent for path in runs.glob("seed-*/*/measured.json"))
    names = {folder.name: _method(folder.name) for folder in folders}
    ours = next(folder for folder in folders if (folder / NAME).exists())
    summary = json.loads((ours / NAME / "summary.json").read_text())
    return {
        "command": " ".join(["python benchmarks/multiply.py", *_pairs(settings)]),
        "machine": machine(),
        "versions": summary["versions"] | {"trl": version("trl")},
        "run_file": RUN_FILE.read_text(),
        "methods": {
            names[name]: summary_of([f for f in folders if f.name == name]) for name in names
        },
    }


def _method(folder: str) -> str:
    return folder.replace("TRLs-", TRL)


def summary_of(folders: list[Path]) -> dict[str, Any]:
    """One method over its seeds."""
    pairs = [evaluations(folder) for folder in folders]
    intervals: dict[str, Any] = {}
    for k in KS:
        before, after = (np.stack([pair[i].pass_at(k) for pair in pairs]) for i in (0, 1))
        intervals[f"pass@{k} before"] = asdict(mean_interval(before, seed=0))
        intervals[f"pass@{k} after"] = asdict(mean_interval(after, seed=0))
        intervals[f"pass@{k} gain"] = asdict(paired_difference(before, after, seed=0))
    return {
        "seeds": [int(folder.parent.name.removeprefix("seed-")) for folder in folders],
        "intervals": intervals,
        "runs": [run_of(folder) for folder in folders],
    }


def run_of(folder: Path) -> dict[str, Any]:
    """One run's figures."""
    before, after = evaluations(folder)
    return {
        "pass@1": [float(one.pass_at(1).mean()) for one in (before, after)],
        "pass@8": [float(one.pass_at(8).mean()) for one in (before, after)],
        "tokens of a response": [float(one.lengths_PN.mean()) for one in (before, after)],
        "seconds_per_step": seconds_per_step(folder),
        **json.loads((folder / "measured.json").read_text()),
        "successes_of_8": [one.successes_PN.sum(1).tolist() for one in (before, after)],
    }


def seconds_per_step(folder: Path) -> float:
    """Mean of a step, without evaluations."""
    path = folder / NAME / "summary.json"
    if not path.exists():
        return json.loads((folder / "trained.json").read_text())["seconds_per_step"]
    summary = json.loads(path.read_text())
    phases = {name: s for name, s in summary["phases"].items() if name != "evaluation"}
    return round(sum(phases.values()) / summary["steps"], 2)


def line_of(name: str, seed: int, folder: Path) -> str:
    """One finished run in a line."""
    run = run_of(folder)
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
