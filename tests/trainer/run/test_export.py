"""Trained weights as a folder that transformers loads, with the trainer's own log-probs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from preceptor_clients.contract.control_tokens import end_ids
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_trainer.commands.export import export_command
from preceptor_trainer.learner.policy import Policy, WeightFolder
from preceptor_trainer.model.batch import TrainRollout, make_batches
from preceptor_trainer.model.heads.dense import student_statistics
from preceptor_trainer.model.statistics import Needs
from preceptor_trainer.model.weights import weights_of
from preceptor_trainer.run.export import CannotExport, export, version_folder
from preceptor_trainer.run.standing import Lineage, remember

from ...models.tiny import FAMILIES, tiny_model


def trained(folder: Path) -> Policy:
    """A policy whose weights are not those of its folder any more."""
    policy = Policy(folder)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


def published(policy: Policy, run_dir: Path, *versions: str) -> None:
    folder = WeightFolder(
        run_dir / "weights",
        "p",
        policy.vocab_fingerprint,
        source=policy.folder,
        config=policy.model.config,
    )
    for version in versions:
        folder.write(weights_of(policy.model), f"p/{version}", parent=None, checkpoint=True)


def trainers_logprobs(policy: Policy, prompt: list[int], response: list[int]) -> np.ndarray:
    row = TrainRollout(rollout_id="r", group=0, prompt_ids=prompt, response_ids=response)
    [batch] = make_batches([row], token_budget=512)
    with torch.no_grad():
        found = student_statistics(policy.model, batch, Needs(), trunk=policy.trunk)  # type: ignore[arg-type]
    return found.sampled_logprobs_BT[0].numpy()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_padded", [0, 37])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_folder_has_the_trainers_log_probs(
    name: str, tied: bool, num_padded: int, tmp_path: Path
) -> None:
    policy = trained(tiny_model(name, tmp_path / "model", tied=tied, num_padded=num_padded))
    published(policy, tmp_path / "run", "l0/20")
    remember(tmp_path / "run", Lineage(name="l0", parent=None, from_step=0, steps=20))
    prompt, response = policy.encode([{"role": "user", "content": "the cat"}]), [7, 50, 90, 2]

    export(f"{tmp_path / 'run'}@20", tmp_path / "out")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
    wanted = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])
    found = trainers_logprobs(policy, prompt, response)
    assert np.abs(found - wanted[:, 0].numpy()).max() < 1e-5


def test_an_exported_folder_is_complete(tmp_path: Path) -> None:
    policy = Policy(tiny_model("gemma3", tmp_path / "model"))
    published(policy, tmp_path / "run", "l0/3")
    remember(tmp_path / "run", Lineage(name="l0", parent=None, from_step=0, steps=3))

    export(str(tmp_path / "run"), tmp_path / "out")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer_fingerprint(tokenizer) == policy.vocab_fingerprint
    assert end_ids(tokenizer) == policy.end_ids
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    again = Policy(tmp_path / "out")
    assert again.encode([{"role": "user", "content": "a"}]) == policy.encode(
        [{"role": "user", "content": "a"}]
    )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at step 7 and went on from step 5 on another lineage."""
    root = tmp_path_factory.mktemp("export")
    policy = Policy(tiny_model("smollm2", root / "model"))
    run = root / "run"
    published(policy, run, "l0/0", "l0/5", "l0/6", "l0/7", "l1/6", "l1/10")
    (run / "weights" / "p" / "l1" / ".11.partial").mkdir()
    remember(run, Lineage(name="l0", parent=None, from_step=0, steps=10))
    remember(run, Lineage(name="l1", parent="l0", from_step=5, steps=10))
    return run


@pytest.mark.parametrize(
    ("step", "wanted"), [("last", "l1/10"), ("10", "l1/10"), ("6", "l1/6"), ("5", "l0/5")]
)
def test_a_step_is_the_one_that_the_run_followed(run_dir: Path, step: str, wanted: str) -> None:
    assert version_folder(run_dir, step) == run_dir / "weights" / "p" / wanted


@pytest.mark.parametrize("step", ["7", "11", "x"])
def test_a_step_that_is_not_there_is_refused_with_those_that_are(run_dir: Path, step: str) -> None:
    with pytest.raises(CannotExport, match="on disk are 0, 5, 6, 10"):
        version_folder(run_dir, step)


def test_the_best_version_is_the_recorded_one(run_dir: Path) -> None:
    with pytest.raises(CannotExport, match="no version was evaluated"):
        version_folder(run_dir, "best")

    (run_dir / "best.json").write_text(json.dumps({"weights": "p/l0/5"}))

    assert version_folder(run_dir, "best").name == "5"


def test_the_command_writes_the_folder_and_refuses_one_that_exists(
    run_dir: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.command()(export_command)
    words = [f"{run_dir}@6", str(tmp_path / "out")]

    first, second = (CliRunner().invoke(app, words) for _ in range(2))

    assert first.exit_code == 0, first.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert second.exit_code == 2
    assert "exists" in second.output
