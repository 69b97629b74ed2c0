"""vLLM's own HTTP server is an expert, behind the OpenAI adapter, and the sampler of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.known import load_known
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.remote.scoring.openai_http import OpenAIServer
from preceptor_trainer.sampling.vllm_weights import EXTENSION

from .conftest import GRPO, Policy, free_port, running, train

pytestmark = [pytest.mark.vllm, pytest.mark.e2e]


@pytest.fixture(scope="module")
def server(
    vllm_python: str, policy: Policy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of `vllm serve` as a run's sampler needs it."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    options = ("--logprobs-mode", "processed_logprobs", "--worker-extension-cls", EXTENSION)
    with serving(vllm_python, policy, log, options, VLLM_SERVER_DEV_MODE="1") as url:
        yield url


@contextlib.contextmanager
def serving(
    python: str, policy: Policy, log: Path, options: Sequence[str], **environment: str
) -> Generator[str]:
    port = free_port()
    command = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy.folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--max-logprobs", "264", "--served-model-name", "policy", *options),
    ]
    with running(command, f"http://127.0.0.1:{port}/health", log, environment):
        yield f"http://127.0.0.1:{port}"


async def test_vllms_own_server_passes_expert_check_behind_the_adapter(
    server: str, policy: Policy, files: Path
) -> None:
    expert = OpenAIServer(url=server, tokenizer=str(policy.folder), max_top_k=261, timeout_s=600.0)
    await expert.start()
    options = CheckOptions(
        known=load_known(files / "known.json"), tolerance=0.02, timeout_s=600.0, max_tokens=256
    )

    report = await check_expert("http://expert", options, httpx.ASGITransport(service_app(expert)))
    await expert.stop()

    assert report.ok, report.as_text()
    passed = {v.check for v in report.verdicts if v.state == "passed"}
    assert {"door", "index", "context", "normalisation", "batch", "known"} <= passed


# The last ones, because they give the server other weights.
def test_a_run_samples_from_vllms_own_server_with_the_weights_of_each_step(
    server: str, policy: Policy, tmp_path: Path
) -> None:
    # On a CPU the engine stops and keeps its memory.
    sampler = {"url": server, "kind": "vllm", "sleeps": True}

    steps = train(policy, sampler, tmp_path, tmp_path / "run", steps=2)

    gaps = [step["behaviour_gap"] for step in steps]
    # The untrained head gives some of its mass to rows that are no tokens, and vLLM draws none.
    assert all(abs(gap) < 0.02 for gap in gaps), gaps
    first, second = (step["sampled_logprob"] for step in steps)
    assert abs(second - first) > 0.1  # what the gap would be with an earlier step's weights
    assert all({"seconds/wake", "seconds/sleep"} <= step.keys() for step in steps)
    assert not httpx.get(f"{server}/is_sleeping").json()["is_sleeping"]
    held = httpx.get(f"{server}/weight_info").json()["weight_version"]
    assert held.endswith("/l0/2")


@pytest.mark.parametrize("weights", ["sent", "broadcast"])
def test_vllms_own_server_is_sent_the_weights_of_each_step(
    server: str, policy: Policy, tmp_path: Path, weights: str
) -> None:
    check_sent(server, policy, tmp_path, weights)


@pytest.mark.gauntlet
@pytest.mark.parametrize("parallel", ["--tensor-parallel-size", "--data-parallel-size"])
def test_all_of_a_servers_workers_load_what_they_are_sent(
    vllm_python: str, policy: Policy, tmp_path: Path, parallel: str
) -> None:
    options = ("--logprobs-mode", "processed_logprobs", "--worker-extension-cls", EXTENSION)
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"}

    log = tmp_path / "log"
    with serving(vllm_python, policy, log, (*options, parallel, "2"), **environment) as url:
        for weights in ("sent", "broadcast"):
            check_sent(url, policy, tmp_path / weights, weights)


def check_sent(server: str, policy: Policy, folder: Path, weights: str) -> None:
    """Trains on what a server draws that is sent the weights."""
    sampler = {"url": server, "kind": "vllm", "weights": weights}
    before = {*Path("/dev/shm").glob("preceptor-fetch*")}

    steps = train(policy, sampler, folder, folder / "run", steps=3, learns=GRPO)

    gaps = [step["behaviour_gap"] for step in steps]
    assert all(abs(gap) < 0.02 for gap in gaps), gaps
    said = [step["sampled_logprob"] for step in steps]
    assert max(said) - min(said) > 0.1  # what the gap would be with an earlier step's weights
    held = httpx.get(f"{server}/weight_info").json()["weight_version"]
    assert held.endswith("/l0/3")
    # Nobody reads versions, so that those of checkpoints alone were written.
    written = sorted((folder / "run/weights").glob("run/l0/*"))
    assert [version.name for version in written] == ["0", "3"]
    assert {*Path("/dev/shm").glob("preceptor-fetch*")} <= before


@pytest.mark.gauntlet
def test_a_run_gives_vllms_own_server_each_adapter_and_the_next_run_finds_none(
    vllm_python: str, policy: Policy, tmp_path: Path
) -> None:
    # Apart: with adapters, vLLM 0.32 on a CPU ends when it scores a prompt.
    options = ("--logprobs-mode", "processed_logprobs", "--enable-lora")
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    adapter = ", lora = { rank = 8 }"

    with serving(vllm_python, policy, tmp_path / "log", options, **environment) as url:
        sampler = {"url": url, "kind": "vllm"}
        for folder in (tmp_path / "first", tmp_path / "second"):
            steps = train(policy, sampler, folder, folder / "run", steps=3, adapter=adapter)

            gaps = [step["behaviour_gap"] for step in steps]
            assert all(abs(gap) < 0.02 for gap in gaps), gaps
            # With an earlier step's adapter the gap would be as large as this.
            assert steps[-1]["sampled_logprob"] - steps[0]["sampled_logprob"] > 0.1
            assert max(step["published_bytes"] for step in steps) < 100_000
            [own, last] = httpx.get(f"{url}/v1/models").json()["data"]
            assert (own["id"], last["id"]) == ("policy", "run/l0/3")
            assert last["root"].startswith(str(folder))


@pytest.mark.gauntlet
def test_two_runs_share_vllms_own_server_each_with_its_adapters(
    vllm_python: str, policy: Policy, tmp_path: Path
) -> None:
    options = ("--logprobs-mode", "processed_logprobs", "--enable-lora", "--max-loras", "2")
    environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    rates = {"one": 3e-2, "two": 1e-2}

    with serving(vllm_python, policy, tmp_path / "log", options, **environment) as url:
        sampler = {"url": url, "kind": "vllm", "shared": True}

        def trained(name: str) -> list[dict[str, Any]]:
            folder = tmp_path / name
            return train(
                policy, sampler, folder, folder / "run",
                steps=4, adapter=", lora = { rank = 8 }", lr=rates[name], name=name,
            )  # fmt: skip

        with ThreadPoolExecutor() as pool:
            runs = dict(zip(rates, pool.map(trained, rates), strict=True))

        cards = httpx.get(f"{url}/v1/models").json()["data"]

    for steps in runs.values():
        gaps = [step["behaviour_gap"] for step in steps]
        # With the other run's adapter the gap would be as large as their difference, below.
        assert all(abs(gap) < 0.02 for gap in gaps), gaps
    last = [steps[-1]["sampled_logprob"] for steps in runs.values()]
    assert abs(last[0] - last[1]) > 0.1, last
    assert {card["id"] for card in cards} == {"policy", "one/l0/4", "two/l0/4"}
