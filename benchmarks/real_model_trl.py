"""TRL's GRPO or SDPO on the run of `examples/multiply/run.toml`; see `real_model.py`.

    python benchmarks/real_model_trl.py grpo --seed 0 --out runs/trl

Model, training rows, judge, group size, prompts of a step, longest response, rate and number of
steps are the file's. Everything else is TRL's default: its loss, its clipping and, for SDPO, its
teacher, which reads a right answer of a sibling. Weights and optimiser state are float32, as ours.
Needs TRL and accelerate.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from preceptor_clients.sdk.judging import load_judge
from preceptor_trainer.runfile.reading import read_run_file
from preceptor_trainer.runfile.schema import RunFile

RUN_FILE: Final = Path(__file__).parent.parent / "examples" / "multiply" / "run.toml"
TRAINERS: Final[dict[str, tuple[Any, Any]]] = {
    "grpo": (GRPOConfig, GRPOTrainer),
    "sdpo": (SDPOConfig, SDPOTrainer),
}


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends = [time.monotonic()]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if len(self.ends) == 1:
            self.ends[0] = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.monotonic())


def main(
    method: Annotated[str, typer.Argument(help="grpo or sdpo")],
    out: Annotated[Path, typer.Option(help="Folder for the model and the times.")],
    seed: Annotated[int, typer.Option()] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Keys of the file.")] = None,
) -> None:
    """Trains, and writes OUT/model and OUT/trained.json."""
    run_file = read_run_file(RUN_FILE, set_ or [])
    folder = RUN_FILE.parent
    torch.set_num_threads(run_file.run.threads)
    assert run_file.model.path is not None
    model_dir = folder / run_file.model.path
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    config, trainer_class = TRAINERS[method]
    clock = Clock()
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32),
        reward_funcs=reward_of(folder, run_file),
        args=config(**settings_of(run_file, seed, out)),
        train_dataset=Dataset.from_list(rows_of(folder / run_file.data.train)),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(str(out / "model"))
    tokenizer.save_pretrained(out / "model")
    steps = len(clock.ends) - 1
    trained = {
        "seconds_per_step": round((clock.ends[-1] - clock.ends[0]) / steps, 2),
        "steps": steps,
        "trl": version("trl"),
        "rewards": [line["reward"] for line in trainer.state.log_history if "reward" in line],
    }
    (out / "trained.json").write_text(json.dumps(trained) + "\n")


def settings_of(run_file: RunFile, seed: int, out: Path) -> dict[str, Any]:
    """What the file says, in TRL's words."""
    rollout, optim = run_file.rollout, run_file.optim
    return {
        "output_dir": str(out / "trl"),
        "seed": seed,
        "max_steps": run_file.run.steps,
        "learning_rate": optim.lr,
        "lr_scheduler_type": "constant",
        "warmup_steps": optim.warmup_steps,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        "adam_beta2": 0.99,  # ours
        "per_device_train_batch_size": optim.prompts_per_step * rollout.n,
        "num_generations": rollout.n,
        "max_completion_length": rollout.max_tokens,
        "temperature": rollout.temperature,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The training rows, each with its prompt as a chat."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]


def reward_of(folder: Path, run_file: RunFile) -> Any:
    """The file's judge as a reward of TRL."""
    [use] = run_file.feedback.use
    judge = load_judge(f"{folder / use.rpartition(':')[0]}:{use.rpartition(':')[2]}")

    def reward(completions: list[Any], **columns: list[Any]) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        rows = [{name: columns[name][i] for name in ("answer",)} for i in range(len(texts))]
        said = [judge(row, text) for row, text in zip(rows, texts, strict=True)]
        return [one if isinstance(one, float) else float(one.score) for one in said]

    return reward


if __name__ == "__main__":
    sys.argv[0] = "real_model_trl.py"
    typer.run(main)
