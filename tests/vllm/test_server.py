"""vLLM's own HTTP server, behind the adapter for OpenAI-compatible servers, is an expert too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.known import load_known
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.remote.scoring.openai_http import OpenAIServer

from .conftest import Policy, free_port, running

pytestmark = [pytest.mark.vllm, pytest.mark.e2e]


@pytest.fixture
def server(
    vllm_python: str, policy: Policy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of `vllm serve`."""
    port = free_port()
    command = [
        *(vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy.folder)),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--max-logprobs", "264", "--served-model-name", "policy"),
    ]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with running(command, f"http://127.0.0.1:{port}/health", log):
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
