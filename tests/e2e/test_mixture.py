"""A run that learns from three experts at once: itself, an API of texts, and a foreign tokenizer.

Both foreign servers are HTTP servers that know nothing of us: one draws from the shipped student's
weights and returns text, the other scores prompts in its own vocabulary.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from preceptor_clients.contract.schemas import Trace
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.sdk.service import ExpertService
from preceptor_services.experts.remote.aligned.aligning import Aligning
from preceptor_services.experts.remote.drawing.sample_only import SampleOnly
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_trainer.run.watching.metrics_log import read_metrics
from preceptor_trainer.student import STUDENT_DIR

from .conftest import Running
from .listening import listening

sys.path.insert(0, str(Path(__file__).parents[1] / "services" / "experts" / "remote"))

from foreign import FakeServer, make_word_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS, ROLLOUTS, DRAWS, MAX_CALLS = 2, 2 * 2 * 2, 4, 2


@dataclass(frozen=True)
class Trained:
    """What a run left behind, and the API of texts that it asked."""

    run_dir: Path
    traces: list[Trace]
    """Of every position of every target."""
    api: FakeServer


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The foreign tokenizer's folder."""
    folder = tmp_path_factory.mktemp("words")
    make_word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def servers(words: Path) -> Iterator[tuple[FakeServer, FakeServer]]:
    """The API of texts and the teacher with words, each listening."""
    student = AutoModelForCausalLM.from_pretrained(STUDENT_DIR, dtype=torch.float32).eval()
    api = FakeServer(tokenizer=StudentTokenizer(STUDENT_DIR), model=student)
    teacher = FakeServer(tokenizer=StudentTokenizer(words), max_model_len=2048, max_logprobs=64)
    with ExitStack() as stack:
        for server in (api, teacher):
            server.url = stack.enter_context(listening(server.app()))
        yield api, teacher


@pytest.fixture(scope="module")
def trained(running: Running, servers: tuple[FakeServer, FakeServer], words: Path) -> Trained:
    api, teacher = servers
    run = running.run("mixture")
    with ExitStack() as stack:
        for name, expert in other_experts(api.url, teacher.url, words).items():
            stack.enter_context(running.expert(name, expert))
        trainer = run.start_trainer(
            recipe="mixture:recipe",
            cwd=Path(__file__).parent,
            steps=STEPS,
            problems_per_step=2,
            rollouts_per_problem=2,
            held_out=1,
            num_samples=1,
        )
        assert trainer.wait(timeout=300) == 0, run.trainer_log()
        traces = asyncio.run(_traces(run))
    return Trained(run.run_dir, traces, api)


def other_experts(api: str, teacher: str, words: Path) -> dict[str, ExpertService]:
    """A sampler of an API's texts, and a teacher with another vocabulary."""
    student = str(STUDENT_DIR)
    sampler = {
        "name": "sampler",
        "url": api,
        "tokenizer": student,
        "choose": "entropy",
        "draws": DRAWS,
        "draws_per_call": DRAWS,
        "draw_tokens": 4,
        "max_calls": MAX_CALLS,
    }
    aligning = {
        "name": "words",
        "url": teacher,
        "tokenizer": student,
        "teacher_tokenizer": str(words),
        "min_told": 0.1,
        "max_requests": 2,
    }
    return {"sampler": SampleOnly(**sampler), "words": Aligning(**aligning)}


async def _traces(run: Running) -> list[Trace]:
    async with GatewayClient(run.deployment.gateway_url, run.deployment.key) as client:
        targets = await client.targets(run.run_dir.name)
        places = [(t.id, position) for t in targets for position in range(t.num_tokens)]
        return list(await asyncio.gather(*(client.trace(*place) for place in places)))


def test_steps_are_made_of_all_three_and_their_losses_are_finite(trained: Trained) -> None:
    traces, steps = trained.traces, read_metrics(trained.run_dir)

    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert all(math.isfinite(step["loss"]) and step["loss"] > 0 for step in steps)
    assert len({trace.target_id for trace in traces}) == ROLLOUTS
    weighed = {s.expert for t in traces for s in t.sources if s.weight > 0}
    assert weighed == {"self-teacher", "sampler", "words"}
    for trace in traces:
        shares = sum(source.weight for source in trace.sources)
        assert shares == pytest.approx(1.0, abs=1e-5) or shares == 0.0
        assert all(use.startswith("l0/") for use in trace.consumed_by)


def test_a_drawn_position_is_on_record_with_its_kind_and_its_chance(trained: Trained) -> None:
    drawn = [s for t in trained.traces for s in t.sources if s.expert == "sampler"]

    assert {source.kind for source in drawn} == {"empirical"}
    assert all(s.inclusion is not None and 0 < s.inclusion <= 1 for s in drawn)
    assert any(s.inclusion < 1 for s in drawn if s.inclusion is not None)
    # Chances add up to the positions that the calls of one query pay for.
    chances = [
        sum(s.inclusion or 0.0 for s in drawn if s.answer_id == answer)
        for answer in {s.answer_id for s in drawn}
    ]
    assert all(total == pytest.approx(MAX_CALLS, abs=1e-3) for total in chances)
    answered = [source for source in drawn if source.weight > 0]
    assert answered
    for source in answered:
        counts = [p * DRAWS for _, p in source.entries]
        assert sum(counts) <= DRAWS + 1e-3
        assert source.tail == pytest.approx(0.0, abs=1e-3)


def test_the_calls_stay_within_the_budget(trained: Trained) -> None:
    sources = [source for trace in trained.traces for source in trace.sources]
    answered = [s for s in sources if s.expert == "sampler" and s.weight > 0]
    calls = [body for path, body in trained.api.asked if path == "/v1/chat/completions"]

    assert len(answered) <= len(calls) <= ROLLOUTS * MAX_CALLS
    assert all(body["n"] == DRAWS for body in calls)
