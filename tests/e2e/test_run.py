"""One run through real services: what it leaves behind."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor_clients.cli.paste import pasted
from preceptor_clients.contract.schemas import Trace
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.export import version_folder
from preceptor_trainer.run.watching.metrics_log import read_metrics

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def gateway(running) -> GatewayClient:
    return GatewayClient(running.deployment.gateway_url, running.deployment.key)


def test_the_summary_has_what_a_machine_reads(finished):
    summary = json.loads((finished.run_dir / "summary.json").read_text())

    for moment in ("before", "after"):
        for k in ("pass@1", "pass@8"):
            interval = summary[moment][k]
            assert 0 <= interval["low"] <= interval["mean"] <= interval["high"] <= 1
    assert summary["rollouts"] == 6 * 3 * 4
    assert 0 < summary["targets"] <= summary["rollouts"]
    assert {"sampling", "feedback", "experts", "update", "publish"} <= set(summary["phases"])
    assert {"sampling", "update", "publish", "evaluation"} <= set(summary["peak_bytes"])
    assert summary["seed"] == 0
    assert summary["versions"]["torch"]


def test_the_report_is_one_page_that_needs_nothing_else(finished):
    page = (finished.run_dir / "report.html").read_text()

    assert "pass@1" in page
    assert 'src="http' not in page
    assert "<script" not in page


async def test_every_target_traces_to_expert_answers_and_feedback(finished):
    async with gateway(finished) as client:
        targets = await client.targets(finished.run_dir.name)
        assert len(targets) == sum(int(m["targets"]) for m in read_metrics(finished.run_dir))
        for target in targets:
            check_trace(await client.trace(target.id, target.num_tokens - 1))


def check_trace(trace: Trace) -> None:
    assert trace.consumed_by, "a target that no step used"
    assert trace.sources
    for source in trace.sources:
        assert source.weights == trace.student_weights
        assert source.context_hash
        assert source.template_version
        assert source.entries
        assert source.feedback, "an answer without the feedback it had in view"
        for item in source.feedback:
            assert item.text
            if item.kind == "execution":
                assert item.details["isolation"]
            else:
                assert item.details["rollout_id"]


async def test_no_rollout_is_consumed_twice(finished):
    async with gateway(finished) as client:
        accounting = await client.accounting(finished.run_dir.name)

    assert accounting.consumed == 6 * 3 * 4
    assert accounting.consumed_twice == 0


@pytest.mark.parametrize("copied", [False, True])
def test_trace_works_when_nothing_runs_but_the_files_are_there(finished, tmp_path, copied):
    folder = finished.run_dir
    if copied:
        folder = tmp_path / "a copy"
        shutil.copytree(
            finished.run_dir, folder, ignore=shutil.ignore_patterns("weights", "*.sock")
        )
    target = json.loads((folder / "summary.json").read_text())["trace_target"]
    command = pasted("trace", target, "--run-dir", folder)

    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "self-teacher" in done.stdout
    assert "step 1" in done.stdout


def versions_on_disk(run_dir: Path) -> list[int]:
    # Other tests' runs have their weights beside this one's.
    found = (run_dir / "weights" / "small").glob("*/[0-9]*")
    return sorted(int(path.name) for path in found if path.is_dir())


def test_checkpoints_stay_as_models_and_with_their_averages(finished):
    assert versions_on_disk(finished.run_dir) == [0, 2, 4, 6]
    for step in (0, 2, 4, 6):
        assert list((finished.run_dir / "weights" / "small").glob(f"*/ema-*/{step}.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(version_folder(finished.run_dir))
    assert model.dtype == torch.float32


async def test_provenance_names_versions_whose_files_are_gone(finished):
    async with gateway(finished) as client:
        manifest = await client.weights(f"{finished.run_dir.name}/l0/3")

    assert manifest.parent == f"{finished.run_dir.name}/l0/2"
    assert manifest.num_bytes
