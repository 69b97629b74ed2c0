"""A run that was interrupted, started with other settings, ruined by an older version, extended."""

from __future__ import annotations

import json
import signal

import pytest

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.watching.metrics_log import read_metrics

from .test_resume import kill_after

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SMALLER = {"steps": 2, "problems_per_step": 2, "held_out": 1}


def wait(trainer, running, code: int) -> None:
    assert trainer.wait(timeout=300) == code, running.trainer_log()


async def test_a_run_survives_other_settings_an_older_versions_traces_and_extension(other):
    kill_after(other, 0, life=0, **SMALLER)

    wait(other.start_trainer(**SMALLER | {"steps": 9}), other, 1)
    assert "steps: begun with 2, now 9" in other.trainer_log()
    assert "preceptor train" in other.trainer_log()

    as_an_older_version_left_it(other)
    wait(other.start_trainer(**SMALLER | {"steps": 9}), other, 1)
    wait(other.start_trainer(**SMALLER), other, 0)
    first = json.loads((other.run_dir / "summary.json").read_text())

    wait(other.start_trainer(*("--extend", "2"), **SMALLER), other, 0)

    summary = json.loads((other.run_dir / "summary.json").read_text())
    assert (first["steps"], summary["steps"]) == (2, 4)
    assert len(read_metrics(other.run_dir)) == 4
    assert (other.run_dir / "evaluations" / "after-2.json").exists()
    assert (other.run_dir / "evaluations" / "after.json").exists()
    async with GatewayClient(other.deployment.gateway_url, other.deployment.key) as client:
        accounting = await client.accounting(other.run_dir.name)
        details = await client.run_details(other.run_dir.name)
    assert (accounting.steps, accounting.consumed_twice) == (4, 0)
    assert details.config["steps"] == 2
    assert details.lineages[-1].settings["steps"] == "4"


def as_an_older_version_left_it(running) -> None:
    """A start that the gateway refused: its lineage is on the list, its settings are the file's."""
    checkpoints = running.run_dir / "checkpoints"
    lines = (checkpoints / "lineages.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines] + [
        {"name": "l1", "parent": "l0", "from_step": 0},
        {"name": "l2", "parent": "l1", "from_step": 0},
    ]
    older = [
        {"lineage": row["name"], "parent": row["parent"], "from_step": row["from_step"]}
        for row in rows
    ]
    (checkpoints / "lives.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    (checkpoints / "lineages.jsonl").unlink()
    config = json.loads((running.run_dir / "config.json").read_text())
    (running.run_dir / "config.json").write_text(json.dumps(config | {"steps": 9}))


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(other):
    trainer = other.start_trainer(**SMALLER | {"steps": 200})
    other.wait_for("evaluation before: 1/1", trainer)

    trainer.send_signal(signal.SIGINT)

    assert trainer.wait(timeout=90) == 130
    last = other.trainer_log().splitlines()[-1]
    assert last.startswith("continue it:")
    assert "--option steps=200" in last
    assert "Traceback" not in other.trainer_log()
