"""An exported folder is a model of vLLM, with the trainer's log-probs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor_clients.contract.schemas import LogprobsCall, PrefixQuery, Prompt
from preceptor_clients.http.service import ServiceClient
from preceptor_trainer.learner.policy import Policy, WeightFolder
from preceptor_trainer.model.weights import weights_of
from preceptor_trainer.run.export import export
from preceptor_trainer.run.standing import Lineage, remember

from ..models.tiny import tiny_model
from .conftest import KEY, free_port, running

pytestmark = [pytest.mark.vllm, pytest.mark.e2e]
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model with a padded head, trained a little."""
    root = tmp_path_factory.mktemp("exported")
    # vLLM's attention on a CPU has no heads of 16.
    policy = Policy(tiny_model("smollm2", root / "model", num_padded=37, head_dim=32))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder = WeightFolder(
        root / "run" / "weights",
        "p",
        policy.vocab_fingerprint,
        source=policy.folder,
        config=policy.model.config,
    )
    folder.write(weights_of(policy.model), "p/l0/4", parent=None, checkpoint=True)
    remember(root / "run", Lineage(name="l0", parent=None, from_step=0, steps=4))
    export(f"{root / 'run'}@4", root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def served(
    vllm_python: str, exported: Path, files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    port = free_port()
    options = {
        "model": str(exported),
        "dtype": "float32",
        "engine": json.dumps({"enforce_eager": True}),
    }
    command = [
        *(vllm_python, "-m", "preceptor_clients.cli", "serve"),
        "preceptor_clients.vllm_expert.service:VLLMExpert",
        *("--port", str(port), "--key-file", str(files / "expert.key")),
        *(part for name, value in options.items() for part in ("--option", f"{name}={value}")),
    ]
    log = tmp_path_factory.mktemp("vllm") / "exported.log"
    with running(command, f"http://127.0.0.1:{port}/readyz", log):
        yield f"http://127.0.0.1:{port}"


async def test_vllm_loads_it_and_agrees_with_the_trainer(served: str, exported: Path) -> None:
    policy = Policy(exported)
    prompt, response = policy.encode([{"role": "user", "content": "the cat"}]), [7, 50, 90, 2]
    query = PrefixQuery(
        prompt=Prompt(ids=np.array(prompt, np.int32)),
        response_ids=np.array(response, np.int32),
        vocab_fingerprint=policy.vocab_fingerprint,
        top_k=8,
    )

    async with ServiceClient(served, KEY) as client:
        info = await client.info()
        [result] = (await client.logprobs(LogprobsCall(queries=(query,)), 300)).results

    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
    wanted = logits.log_softmax(-1)[len(prompt) - 1 : -1].numpy()
    answer = result.answer
    assert answer is not None
    assert info.capabilities.head_size == wanted.shape[1]
    own = wanted[np.arange(len(response)), response]
    entries = np.take_along_axis(wanted, answer.ids_PK.astype(int), 1)
    assert np.abs(answer.own_logprobs_P - own).max() < TOLERANCE
    # Padding of the head that is among vLLM's best is left out, so a row may have fewer entries.
    filled = answer.filled_PK()
    assert filled.any(1).all()
    assert np.abs(answer.logprobs_PK - entries)[filled].max() < TOLERANCE
