"""The event loop's largest gap while a model of 100M parameters is published and checkpointed.

    python benchmarks/publishing.py        # writes benchmarks/results/publishing.json

One step's publishing is: weights, configuration and tokenizer as a folder, its hash, a copy for the
sampler, the sampler's own copy, and a checkpoint with the optimiser's state. A task that sleeps
2 ms at a time runs beside it and notes how much later than that it woke. Two other arms are there
to read the figure by: the same loop with nothing to do, which shows what the machine's other work
costs, and a part of the work on the loop itself.

Three more arms are the way from one step to the questions of the next one, for a run with a teacher
in which no checkpoint is due: publishing and sampling one after the other, publishing while the
sampler draws, and sampling alone. Their gateway hashes the file as the real one does, in a process
of its own. With versions in bfloat16 the copy takes longer, and the files are half as large.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import torch
from answer_path import machine
from transformers import Qwen3Config, Qwen3ForCausalLM

from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.learner.rounding import Rounding
from preceptor_trainer.model.weights import weights_of
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.publishing import Publisher
from preceptor_trainer.sampling.in_process import InProcessSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import SampleRequest
from preceptor_trainer.student import STUDENT_DIR

RESULT = Path(__file__).parent / "results" / "publishing.json"
_BEAT_S = 0.002
_IDLE_S = 3.0
_ROWS, _TOKENS = 32, 24
_ROUNDS = 5


class NoGateway:
    """Registers nothing."""

    async def register_weights(self, manifest: WeightManifest) -> None:
        """Takes no time."""


class ChecksFiles:
    """Registers nothing, after it has hashed the files in another process."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    async def register_weights(self, manifest: WeightManifest) -> None:
        """Takes as long as reading and hashing."""
        folder = Path(urlsplit(manifest.uri).path)
        for name, sha256 in manifest.files.items():
            found = await asyncio.wrap_future(self._pool.submit(hashed, folder / name))
            assert found == sha256


def hashed(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Measured(NamedTuple):
    """One piece of work."""

    took_s: float
    late_s: float
    """The most by which a short sleep beside it was late."""
    loop_cpu_s: float
    """CPU time of the event loop's own thread, which other work of the machine does not change."""


async def measured(work: Callable[[], Awaitable[object]]) -> Measured:
    """Does the work, with a heartbeat beside it."""
    late_s = 0.0

    async def beat() -> None:
        nonlocal late_s
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_BEAT_S)
            late_s = max(late_s, time.perf_counter() - began - _BEAT_S)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0)
    began, cpu_began = time.perf_counter(), time.thread_time()
    await work()
    took_s, loop_cpu_s = time.perf_counter() - began, time.thread_time() - cpu_began
    await asyncio.sleep(2 * _BEAT_S)  # a gap that ends with the work is noticed too
    heart.cancel()
    return Measured(took_s, late_s, loop_cpu_s)


def large_model(hidden: int) -> Qwen3ForCausalLM:
    """A Qwen3 of random weights; 100M parameters at the default size."""
    cast(Any, torch).manual_seed(0)
    config = Qwen3Config(
        vocab_size=32_768,
        hidden_size=hidden,
        num_hidden_layers=12,
        intermediate_size=4 * hidden,
        num_attention_heads=12,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def with_moments(model: Any) -> Learner:
    """A learner that has taken a step, so that its checkpoint has the optimiser's moments."""
    learner = Learner(model, OptimiserConfig(lr=1e-5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    cast(Any, learner)._optimiser.step()
    return learner


async def measure(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Rounds of the three arms."""
    model = large_model(options.hidden)
    learner, sampler = with_moments(model), InProcessSampler(model, end_ids={0}, pad_id=0)
    config = replace(quickstart(steps=1000, held_out=1), checkpoint_every=1)
    folder = WeightFolder(
        root / "weights", config.name, "0" * 64, source=STUDENT_DIR, config=model.config
    )
    publisher = Publisher(folder, root, cast(GatewayClient, NoGateway()))
    publisher.lineage = "l0"
    await publisher._publish(learner, 0, checkpoint=True)
    steps = itertools.count(1)

    async def publish() -> None:
        step = next(steps)
        await publisher.publish(step, learner, config)
        await publisher.checkpoint_if_due(step, learner, config)
        await sampler.load(publisher.published)

    async def on_the_loop() -> None:
        version = f"{config.name}/on-the-loop/{next(steps)}"
        folder.write(weights_of(model), version, parent=None, checkpoint=True)

    arms: dict[str, Callable[[], Awaitable[object]]] = {
        "published": publish,
        "nothing to do": lambda: asyncio.sleep(_IDLE_S),
        "files written on the loop": on_the_loop,
    }
    await publish()
    rounds = [{name: await measured(work) for name, work in arms.items()} for _ in range(3)]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "rounds": len(rounds)} | {
        name: {
            "seconds": [round(one[name].took_s, 2) for one in rounds],
            "largest gaps, ms": [round(1000 * one[name].late_s, 1) for one in rounds],
            "CPU time of the loop's thread, ms": [
                round(1000 * one[name].loop_cpu_s, 1) for one in rounds
            ],
        }
        for name in arms
    }


async def between_steps(
    options: argparse.Namespace, root: Path, rounding: Rounding | None = None
) -> dict[str, Any]:
    """From the update to the next step's questions, with a teacher and between two checkpoints."""
    model = large_model(options.hidden)
    learner, sampler = with_moments(model), InProcessSampler(model, end_ids={0}, pad_id=0)
    config = replace(quickstart(steps=1_000_000, held_out=1), checkpoint_every=1_000_000)
    folder = WeightFolder(
        root / "weights", config.name, "0" * 64, source=STUDENT_DIR, config=model.config
    )
    steps = itertools.count(1)
    with ProcessPoolExecutor(1) as pool:
        gateway = cast(GatewayClient, ChecksFiles(pool))
        publisher = Publisher(folder, root, gateway, rounding=rounding)
        publisher.lineage = "l0"
        await publisher._publish(learner, 0, checkpoint=True)

        async def sample() -> None:
            await sampler.load(publisher.published)
            await sampler.sample(
                SampleRequest(
                    prompts=[list(range(1, 65))] * _ROWS,
                    params=SamplingParams(max_new_tokens=_TOKENS),
                    generator=torch.Generator().manual_seed(0),
                )
            )

        async def files() -> None:
            await publisher.known(publisher.published.version)

        async def sampled_alone() -> float:
            await sample()
            return 0.0

        async def one_after_the_other() -> float:
            waited = await seconds(publisher.publish(next(steps), learner, config))
            waited += await seconds(files())
            await sample()
            return waited

        async def at_once() -> float:
            waited = await seconds(publisher.publish(next(steps), learner, config))
            await sample()
            return waited + await seconds(files())

        arms = {
            "sampling alone": sampled_alone,
            "published, then sampled": one_after_the_other,
            "published while sampled": at_once,
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for _ in range(_ROUNDS):
            for name, work in arms.items():
                found[name].append(await timed(work))
            shutil.rmtree(folder.root)
    size = publisher.metrics()["published_bytes"]
    return {"tokens": _ROWS * _TOKENS, "published bytes": size, **found}


async def seconds(work: Awaitable[object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def timed(work: Callable[[], Awaitable[float]]) -> dict[str, float]:
    """Seconds, those of them that publishing is waited for, and CPU time of this process."""
    began, cpu_began = time.perf_counter(), time.process_time()
    waited_s = await work()
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return {
        "seconds": round(took_s, 2),
        "waited": round(waited_s, 2),
        "CPU seconds": round(cpu_s, 2),
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=640, help="size of the model's states")
    options = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, Any] = {}
    rounding = Rounding(seed=0, by_chance=True)
    works: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
        "publishing": measure,
        "between steps": between_steps,
        "between steps, in bfloat16": partial(between_steps, rounding=rounding),
    }
    for name, arms in works.items():
        with tempfile.TemporaryDirectory() as root:
            found[name] = asyncio.run(arms(options, Path(root)))
    result = {"machine": machine(), "load": os.getloadavg()[0]} | found
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
