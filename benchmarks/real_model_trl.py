"""TRL's GRPO or SDPO on a run file; see `real_model.py`, which starts it.

    python benchmarks/real_model_trl.py grpo --file examples/multiply/run.toml --out runs/trl

Model, training rows and their order where it is fixed, judge, group size, prompts of a step,
longest response, rate and number of steps are the file's. Everything else is TRL's default: its
loss, its clipping and, for SDPO, its teacher, which reads a right answer of a sibling. It does not
read what the judge says of an attempt: TRL takes feedback from a column of the data, which is there
before the attempt. Its warm-up begins with a step at a rate of 0. Weights and optimiser state are
float32, as ours. Needs TRL and accelerate.

Writes OUT/models/after, OUT/models/step-N every N steps, and OUT/trained.json with the seconds of
each step, in which no model is written.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from preceptor_clients.contract.schemas import FeedbackQuery, Message, Prompt
from preceptor_clients.sdk.judging import load_judge
from preceptor_services.feedback.executor import Executor
from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.schema import EXECUTOR_USE, RunFile
from preceptor_trainer.runfile.students import model_folder

TRAINERS: Final[dict[str, tuple[Any, Any]]] = {
    "grpo": (GRPOConfig, GRPOTrainer),
    "sdpo": (SDPOConfig, SDPOTrainer),
}
ROW: Final = "row"
"""The column that holds a whole row as JSON: values of any kind do not fit a typed column."""
Rows = list[dict[str, Any]]
Judge = Callable[[Rows, list[str]], list[float]]


class Clock(TrainerCallback):
    """Seconds of each step; between two of them the model is written where that is asked for."""

    def __init__(self, every: int | None, write: Callable[[str], None]) -> None:
        self.seconds: list[float] = []
        self._every = every
        self._write = write
        self._last = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.seconds:
            self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.monotonic() - self._last)
        step = len(self.seconds)
        if self._every is not None and step % self._every == 0 and step < state.max_steps:
            self._write(f"step-{step}")
        self._last = time.monotonic()


def main(
    method: Annotated[str, typer.Argument(help="grpo or sdpo")],
    file: Annotated[Path, typer.Option(help="The run's TOML file.")],
    out: Annotated[Path, typer.Option(help="Folder for the models and the times.")],
    every: Annotated[int | None, typer.Option(help="Steps between models.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Keys of the file.")] = None,
) -> None:
    """Trains, and writes OUT/models and OUT/trained.json."""
    run_file, folder = read_run_file(file, set_ or []), file.resolve().parent
    torch.set_num_threads(run_file.run.threads)
    model_dir = model_folder(run_file.model.path, folder)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    config, trainer_class = TRAINERS[method]

    def write(label: str) -> None:
        trainer.save_model(str(out / "models" / label))
        tokenizer.save_pretrained(out / "models" / label)

    clock = Clock(every, write)
    with judge_of(folder, run_file) as judge:
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
            reward_funcs=reward_of(judge),
            args=config(**settings_of(run_file, out)),
            train_dataset=Dataset.from_list(rows_of(folder / run_file.data.train)),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    write("after")
    trained = {
        "seconds": [round(one, 2) for one in clock.seconds],
        "trl": version("trl"),
        "rewards": [line["reward"] for line in trainer.state.log_history if "reward" in line],
    }
    (out / "trained.json").write_text(json.dumps(trained) + "\n")


def settings_of(run_file: RunFile, out: Path) -> dict[str, Any]:
    """What the file says, in TRL's words."""
    rollout, optim = run_file.rollout, run_file.optim
    return {
        "output_dir": str(out / "trl"),
        "seed": run_file.run.seed,
        "max_steps": run_file.run.steps,
        "learning_rate": optim.lr,
        "lr_scheduler_type": "linear" if optim.decay else "constant_with_warmup",
        "warmup_steps": optim.warmup_steps,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        "adam_beta2": 0.99,  # ours
        "per_device_train_batch_size": optim.prompts_per_step * rollout.n,
        "num_generations": rollout.n,
        "max_completion_length": rollout.max_tokens,
        "temperature": rollout.temperature,
        "shuffle_dataset": run_file.data.shuffle,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def rows_of(path: Path) -> Rows:
    """The training rows, each with its prompt as a chat."""
    rows = [(line, json.loads(line)) for line in path.read_text().splitlines()]
    return [
        {"prompt": [{"role": "user", "content": row["prompt"]}], ROW: line} for line, row in rows
    ]


@contextmanager
def judge_of(folder: Path, run_file: RunFile) -> Iterator[Judge]:
    """The file's judge: the executor, or a function."""
    [use] = run_file.feedback.use
    if use == EXECUTOR_USE:
        with executor(run_file.feedback.workers) as score:
            yield score
    else:
        yield function(folder, use)


def function(folder: Path, use: str) -> Judge:
    """`FILE.py:NAME`, in this process."""
    judge = load_judge(f"{folder / use.rpartition(':')[0]}:{use.rpartition(':')[2]}")

    def score(rows: Rows, texts: list[str]) -> list[float]:
        said = [judge(row, text) for row, text in zip(rows, texts, strict=True)]
        return [one if isinstance(one, float) else float(one.score) for one in said]

    return score


@contextmanager
def executor(workers: int) -> Iterator[Judge]:
    """The service's own class, in this process."""
    source = Executor(workers=workers)
    with asyncio.Runner() as runner:
        runner.run(source.start())

        def score(rows: Rows, texts: list[str]) -> list[float]:
            queries = [_query(row, text) for row, text in zip(rows, texts, strict=True)]
            return [_score(answer) for answer in runner.run(source.feedback(queries))]

        try:
            yield score
        finally:
            runner.run(source.stop())


def _query(row: dict[str, Any], text: str) -> FeedbackQuery:
    return FeedbackQuery(
        rollout_id=row["id"],
        prompt=Prompt(messages=(Message(role="user", content=row["prompt"]),)),
        response_ids=[0],
        response_text=text,
        finish_reason="stop",
        payload_sha256="0" * 64,
        payload=row,
    )


def _score(answer: Any) -> float:
    if isinstance(answer, Exception):
        raise answer
    return sum(item.score for item in answer.items)


def reward_of(judge: Judge) -> Any:
    """A judge as a reward of TRL."""

    def reward(completions: list[Any], row: list[str], **_: Any) -> list[float]:
        return judge([json.loads(one) for one in row], [one[0]["content"] for one in completions])

    return reward


if __name__ == "__main__":
    sys.argv[0] = "real_model_trl.py"
    typer.run(main)
