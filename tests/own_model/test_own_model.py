"""An own model, own data and an own judge, from an empty folder, by what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ..e2e.forked import Command
from . import tiny

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "train-your-own-model.md"
FORMATS_PAGE = PAGE.with_name("data-formats.md")
FEW = ("rollout.n=2", "rollout.max_tokens=12", "optim.prompts_per_step=2", "run.eval_samples=2")


def on_the_page(name: str, page: Path = PAGE) -> str:
    found = re.search(
        rf'^```\w+ title="{re.escape(name)}"\n(.*?)^```$', page.read_text(), re.M | re.S
    )
    assert found is not None, name
    return found[1]


def train(folder: Path, *words: str) -> str:
    """What `preceptor train run.toml` says, once it has succeeded."""
    log = folder / "said.log"
    code = Command(["train", "run.toml", *words], log, cwd=folder).wait(timeout=280)
    assert code == 0, log.read_text()
    return log.read_text()


def settings(*pairs: str) -> list[str]:
    return [word for pair in (*FEW, *pairs) for word in ("--set", pair)]


def write_rows(path: Path, first: int, count: int) -> None:
    row = json.loads(on_the_page("train.jsonl"))
    rows = [
        row | {"prompt": f"What is {i} * 12?", "answer": 12 * i}
        for i in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def test_three_files_of_the_page_and_one_command_train_a_model(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "model")
    for name in ("run.toml", "judge.py"):
        (tmp_path / name).write_text(on_the_page(name))
    write_rows(tmp_path / "train.jsonl", 0, 8)
    write_rows(tmp_path / "dev.jsonl", 20, 2)

    said = train(tmp_path, *settings("run.steps=2", "run.eval_every=1"))

    written = on_the_page("run.toml") + on_the_page("judge.py")
    assert len([line for line in written.splitlines() if line.strip()]) <= 15
    run = tmp_path / "runs" / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["after"]["num_problems"], summary["after"]["ungraded"]) == (
        2,
        2,
        0,
    )
    assert summary["targets"] == summary["rollouts"] == 8, "every attempt failed, and was taught"
    assert [one["label"] for one in summary["evaluations"]] == ["before", "step-1", "after"]
    assert json.loads((run / "best.json").read_text())["weights"].startswith("run/l0/")
    assert "What is 20 * 12?" in (run / "report.html").read_text()
    assert "asks       self-teacher, judge, on this machine" in said


def test_messages_a_long_context_two_ends_and_no_padding_work_by_default(tmp_path: Path) -> None:
    tiny.qwen3(tmp_path / "model")
    ask = {"role": "user", "content": "Who?"}
    turns = [{"role": "system", "content": "Be brief."}, ask, {"role": "assistant", "content": "I"}]
    rows = [{"messages": [*turns, {"role": "user", "content": f"{i}?"}]} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(
        "async def judge(row, response):\n"
        "    if len(row['messages']) != 4:\n"
        "        raise RuntimeError('the whole row is here')\n"
        "    return len(response) / 100\n"
    )
    (tmp_path / "run.toml").write_text(
        '[model]\npath = "model"\n[data]\ntrain = "rows.jsonl"\n'
        '[feedback]\nuse = "judge.py:judge"\n[teacher]\nown_solution = true\n'
        '[teacher.people]\nselect = "random"\nshare = 1.0\n'
    )

    said = train(tmp_path, *settings("run.steps=1", "feedback.solved_at=0.0"))

    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert summary["targets"] == summary["rollouts"] == 4, "every attempt solved it"
    assert summary["corrections"]["sent"] == 4
    assert "the run is not evaluated" in said
    assert f"trace {summary['trace_target']} --run-dir" in said


def write_records(path: Path, first: int, count: int) -> None:
    """Science questions as the papers' records."""
    rows = [
        {
            "idx": i, "kind": "mcq", "dataset": "sciknoweval", "system": "Answer in tags.",
            "prompt": f"Which is larger?\n\nA: {i}\nB: {i + 1}", "answer": "B", "elo": "1500",
        }
        for i in range(first, first + count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_science_records_train_with_solved_siblings_alone(tmp_path: Path) -> None:
    tiny.qwen3(tmp_path / "model", words=tiny.guesses("AB"))
    (tmp_path / "run.toml").write_text(on_the_page("science.toml", FORMATS_PAGE))
    write_records(tmp_path / "train.json", 0, 8)
    write_records(tmp_path / "test.json", 20, 2)

    train(tmp_path, *settings("model.path=model", "rollout.n=6", "run.steps=2"))

    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert (summary["rollouts"], summary["after"]["ungraded"]) == (24, 0)
    assert summary["config"]["problems"]["rows"]["num_rows"] == 8
    assert 0 < summary["targets"] < 24, "only an attempt beside a solved one is taught"


def test_gemmas_windows_the_pages_template_and_mathematics_in_a_folder_as_on_the_hub_work(
    tmp_path: Path,
) -> None:
    tiny.gemma3(tmp_path / "model")
    template = on_the_page("chat_template.jinja")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    (tmp_path / "questions" / "data").mkdir(parents=True)
    for split, count in (("train", 6), ("test", 2)):
        rows = [{"problem": f"{split} {i} * 2?", "answer": f"${4 * i} / 2$"} for i in range(count)]
        path = tmp_path / "questions" / "data" / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    (tmp_path / "run.toml").write_text(
        '[model]\npath = "model"\n'
        '[data]\ntrain = "questions"\neval_split = "test"\nformat = "math"\n'
        '[feedback]\nuse = "math"\noptions = { boxed = true }\n'
    )

    train(tmp_path, *settings("run.steps=1", "objective.use=sdpo"))

    run = tmp_path / "runs" / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["after"]["num_problems"] == 2
    assert summary["config"]["problems"]["rows"]["source"] == "questions"
    assert summary["targets"] == summary["rollouts"] == 4, "the verifier said what was wrong"
