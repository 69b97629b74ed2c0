"""The example of code: its problems, and a run of two steps on a model that recites one program."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from preceptor_clients.contract.schemas import FeedbackQuery, Message, Prompt
from preceptor_services.feedback.executor import Executor
from preceptor_services.provenance.command import trace_target
from preceptor_trainer.commands.run import train_command
from preceptor_trainer.data.formats.named import make_format
from preceptor_trainer.data.reading import read_rows

from . import tiny

EXAMPLE = Path(__file__).parents[2] / "examples" / "code"
RECITED = "```python\nprint(1)\n```"
FEW = ("rollout.n=2", "rollout.max_tokens=30", "optim.prompts_per_step=2", "run.steps=2",
       "run.eval_samples=1", "data.eval_rows=1", "objective.use=sdpo")  # fmt: skip


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_data", EXAMPLE / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_data"] = module
    spec.loader.exec_module(module)
    return module


def payloads(name: str) -> dict[str, dict[str, Any]]:
    rows = make_format("livecodebench", {"prompt": "short"})(read_rows(name, EXAMPLE), "train")
    return {row.columns["id"]: row.columns for row in rows}


def test_the_committed_problems_are_those_of_the_script() -> None:
    made = script()
    problems = {problem.name: made.row(problem) for problem in made.functions() + made.programs()}
    lines = [
        json.loads(line)
        for name in ("train", "held_out")
        for line in (EXAMPLE / f"{name}.jsonl").read_text().splitlines()
    ]

    assert {line["question_id"] for line in lines} == problems.keys()
    assert len(lines) == len(problems)
    for line in lines:
        expected = problems[line["question_id"]]
        # Packed bytes depend on the library's version; what is packed is compared below.
        assert line | {"private_test_cases": ""} == expected | {"private_test_cases": ""}


async def test_problems_are_solved_by_their_own_programs() -> None:
    made = script()
    rows = payloads("train.jsonl") | payloads("held_out.jsonl")
    problems = (made.functions() + made.programs())[::10]
    executor = Executor(workers=2)
    await executor.start()

    answers = await executor.feedback([query(p.solution, rows[p.name]) for p in problems])
    await executor.stop()

    assert [a.items[0].score for a in answers] == [1.0] * len(problems)  # type: ignore[union-attr]


def query(program: str, payload: dict[str, Any]) -> FeedbackQuery:
    return FeedbackQuery(
        rollout_id=payload["id"],
        prompt=Prompt(messages=(Message(role="user", content="Do it."),)),
        response_ids=[1],  # type: ignore[arg-type]
        response_text=f"```python\n{program}\n```",
        finish_reason="stop",
        payload_sha256="0" * 64,
        payload=payload,
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A hundred tokens at a time are no work for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reciting(folder: Path) -> None:
    """A tiny model that has learnt one wrong program by heart."""
    torch.manual_seed(0)
    tiny.qwen3(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    rows = [*payloads("train.jsonl").values()]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    answer = tokenizer.encode(f"{RECITED}<|done|>")
    loss = torch.tensor(0.0)
    for row in rows * 4:
        asked = tokenizer.apply_chat_template(
            row["messages"], add_generation_prompt=True, return_dict=False
        )
        ids = torch.tensor([[*asked, *answer]])
        labels = torch.tensor([[*(-100 for _ in asked), *answer]])
        loss = model(ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # By heart, a token at a time: attempts of thirty tokens at temperature 1 rarely stray.
    assert loss.item() < 0.002, loss.item()
    model.save_pretrained(folder)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_file_of_livecodebench_trains_with_the_programs_trace_in_view(
    tmp_path: Path, one_thread: None
) -> None:
    reciting(tmp_path / "model")
    settings = (*FEW, f"model.path={tmp_path / 'model'}", f"run.folder={tmp_path / 'runs'}")
    pairs = [word for pair in settings for word in ("--set", pair)]

    done = invoked(train_command, str(EXAMPLE / "run.toml"), *pairs)

    assert done.exit_code == 0, done.output
    run = tmp_path / "runs" / "code"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["rollouts"] == 8
    assert summary["targets"] > 0
    traced = invoked(trace_target, summary["trace_target"], "--run-dir", str(run))
    assert "Wrong Answer" in traced.output or "Runtime Error" in traced.output, traced.output


def invoked(command: Callable[..., None], *words: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, words)
