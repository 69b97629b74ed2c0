"""vLLM itself, in an environment of its own, as services of this machine.

`make vllm` makes that environment and runs these tests; PRECEPTOR_VLLM_PYTHON names its Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.schemas import WeightManifest, WeightsOffer
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.student.architecture import make_tokenizer

KEY: Final = "vllm-" + "k" * 40
VOCAB_SIZE: Final = len(make_tokenizer())
_START_S: Final = 1800
"""vLLM imports for minutes where others work on the same cores."""
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "1800",
    "VLLM_ENGINE_READY_TIMEOUT_S": "1800",
    "OMP_NUM_THREADS": "2",
    "TORCHDYNAMO_DISABLE": "1",  # the first batch would wait for a C++ compiler
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A small random model as files, two more versions of its weights, and what it really says."""

    folder: Path
    weights_root: Path
    vocab_fingerprint: str
    offer: WeightsOffer

    def module(self, version: WeightManifest | None = None) -> Any:
        module = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        if version is not None:
            self.perturb(module, int(version.version.rsplit("/", 1)[1]))
        return module

    @staticmethod
    def perturb(module: Any, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in module.parameters():
                p += 0.1 * p.std() * torch.randn(p.shape, generator=generator)

    def logprobs_TV(
        self, prompt: Sequence[int], response: Sequence[int], module: Any = None
    ) -> torch.Tensor:
        """Log-probs at the response's positions, in float32."""
        module = module or self.module()
        with torch.no_grad():
            logits = module(torch.tensor([[*prompt, *response]])).logits[0].float()
        return logits.log_softmax(-1)[len(prompt) - 1 : -1]


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB_SIZE + 3,  # padded rows, as large models have
            hidden_size=64,
            num_hidden_layers=2,
            intermediate_size=128,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            max_position_embeddings=257,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            initializer_range=0.3,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    root = folder / "weights"
    fingerprint = tokenizer_fingerprint(tokenizer)
    made = Policy(
        folder=folder / "model",
        weights_root=root,
        vocab_fingerprint=fingerprint,
        offer=WeightsOffer(manifests=()),
    )
    manifests = tuple(_publish(made, step) for step in (1, 2))
    return Policy(
        folder=folder / "model",
        weights_root=root,
        vocab_fingerprint=fingerprint,
        offer=WeightsOffer(manifests=manifests),
    )


def _publish(policy: Policy, step: int) -> WeightManifest:
    module = policy.module()
    policy.perturb(module, step)
    folder = policy.weights_root / str(step)
    folder.mkdir(parents=True)
    tensors = {name: p.detach().contiguous() for name, p in module.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    return WeightManifest(
        version=f"p/l/{step}",
        parent=None if step == 1 else f"p/l/{step - 1}",
        uri=folder.as_uri(),
        files={"model.safetensors": hashlib.sha256(content).hexdigest()},
        vocab_fingerprint=policy.vocab_fingerprint,
    )


@pytest.fixture(scope="session")
def files(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `expert check` is given: the key, known answers of transformers, versions of weights."""
    folder = tmp_path_factory.mktemp("files")
    # A versioned expert is asked for the newest version offered.
    for name, version in (("known", None), ("known-newest", policy.offer.manifests[-1])):
        (folder / f"{name}.json").write_text(json.dumps(_known(policy, policy.module(version))))
    (folder / "weights.json").write_text(policy.offer.model_dump_json())
    (folder / "expert.key").write_text(KEY)
    return folder


def _known(policy: Policy, module: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    cases = []
    for length in (6, 90):
        prompt, response = rng.integers(0, 256, 9).tolist(), rng.integers(0, 256, length).tolist()
        rows = policy.logprobs_TV(prompt, response, module)
        own = rows[torch.arange(length), torch.tensor(response)].tolist()
        cases.append({"prompt_ids": prompt, "response_ids": response, "logprobs": own})
    return {"vocab_fingerprint": policy.vocab_fingerprint, "tolerance": 0.02, "cases": cases}


@pytest.fixture(scope="session")
def vllm_python() -> str:
    python = os.environ.get("PRECEPTOR_VLLM_PYTHON")
    if python is None:
        pytest.skip("PRECEPTOR_VLLM_PYTHON names no Python with vLLM; `make vllm` does")
    return python


@contextlib.contextmanager
def running(
    command: Sequence[str], ready: str, log: Path, environment: Mapping[str, str] | None = None
) -> Generator[None]:
    """A process, once `ready` answers 200."""
    every = {**os.environ, **_ENVIRONMENT, **(environment or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=every, stdout=output, stderr=output)
    try:
        end = time.monotonic() + _START_S
        while not _is_ready(ready):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < end, f"not ready in time:\n{log.read_text()[-4000:]}"
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def in_process(
    vllm_python: str, policy: Policy, files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the vLLM expert, which runs in vLLM's environment beside the light SDK."""
    log = tmp_path_factory.mktemp("vllm") / "expert.log"
    options = {"model": str(policy.folder), "dtype": "float32"}
    roots = [policy.weights_root]
    with vllm_service(vllm_python, options, roots, files / "expert.key", log) as url:
        yield url


@contextlib.contextmanager
def vllm_service(
    python: str, options: Mapping[str, str], roots: Sequence[Path], key: Path, log: Path
) -> Generator[str]:
    """The project's service inside vLLM's environment; its address."""
    port = free_port()
    every = {
        "weights_roots": json.dumps([str(root) for root in roots]),
        "engine": json.dumps({"enforce_eager": True}),
        **options,
    }
    command = [
        *(python, "-m", "preceptor_clients.cli", "serve"),
        "preceptor_clients.vllm_expert.service:VLLMExpert",
        *("--port", str(port), "--key-file", str(key)),
        *(part for name, value in every.items() for part in ("--option", f"{name}={value}")),
    ]
    with running(command, f"http://127.0.0.1:{port}/readyz", log):
        yield f"http://127.0.0.1:{port}"


_RUN: Final = """
model = {{ path = "{model}"{adapter} }}
data = {{ train = "rows.jsonl", eval = "held_out.jsonl", reference = "answer" }}
{learns}
rollout = {{ n = 4, max_tokens = 8, sampler = {sampler} }}
optim = {{ prompts_per_step = 4, lr = {lr} }}
run = {{ name = "{name}", steps = {steps}, eval_samples = 2 }}
"""
DISTIL: Final = """
feedback = { use = "exact" }
teacher = { reference = true, self = { template = "compact" } }
objective = { use = "distil" }
"""
GRPO: Final = """
feedback = { use = "judge.py:judge" }
objective = { use = "grpo" }
"""
_JUDGE: Final = """
def judge(row, response):
    return sum(character < "a" for character in response) / max(1, len(response))
"""


def train(
    policy: Policy,
    sampler: Mapping[str, str | bool],
    folder: Path,
    run_dir: Path,
    *,
    steps: int,
    adapter: str = "",
    lr: float = 3e-2,
    name: str = "run",
    learns: str = DISTIL,
) -> list[dict[str, Any]]:
    """The metrics of a run whose responses a sampler draws."""
    folder.mkdir(parents=True, exist_ok=True)
    said = ", ".join(f"{key} = {json.dumps(value)}" for key, value in sampler.items())
    text = _RUN.format(
        model=policy.folder,
        sampler=f"{{ {said} }}",
        steps=steps,
        adapter=adapter,
        lr=lr,
        name=name,
        learns=learns,
    )
    (folder / "run.toml").write_text(text)
    (folder / "vllm.key").write_text(KEY)
    (folder / "judge.py").write_text(_JUDGE)
    for file, first, count in (("rows", 0, 8), ("held_out", 8, 2)):
        rows = [{"prompt": f"{i}+1?", "answer": f"{i + 1}"} for i in range(first, first + count)]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "preceptor_clients.cli", "train", "run.toml"]
    done = subprocess.run(
        [*command, "--run-dir", str(run_dir)],
        cwd=folder, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return read_metrics(run_dir)


@pytest.fixture
def check() -> Callable[..., dict[str, Any]]:
    """`preceptor expert check`, as a person runs it; its verdicts by name."""

    def run(url: str, *options: object) -> dict[str, Any]:
        command = [
            sys.executable,
            "-m",
            "preceptor_clients.cli",
            "expert",
            "check",
            url,
            "--json",
        ]
        done = subprocess.run(
            [*command, "--timeout", "300", *map(str, options)],
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode in (0, 1), done.stderr
        report = json.loads(done.stdout)
        failed = [v for v in report["verdicts"] if v["state"] == "failed"]
        assert done.returncode == 0, json.dumps(failed, indent=1)
        return {verdict["check"]: verdict for verdict in report["verdicts"]}

    return run


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that PRECEPTOR_SMOLLM2 names, or one that the example makes."""
    if (given := os.environ.get("PRECEPTOR_SMOLLM2")) is not None:
        return Path(given)
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    made = [sys.executable, str(Path(__file__).parents[2] / "examples" / "smollm2.py"), str(folder)]
    subprocess.run(made, check=True, timeout=1200)
    return folder
