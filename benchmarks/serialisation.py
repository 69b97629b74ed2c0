"""What it costs to send an answer: the frame, JSON of vLLM's shape, and `torch.save`.

    python benchmarks/serialisation.py --out benchmarks/results/serialisation.json

Every way carries the same 1,024 positions with 64 entries, from arrays into arrays. vLLM's shape is
a dictionary per position from token id to log-prob, rank and text, through the standard library.
The ways take turns, and each counts with its fastest turn in CPU time, since nothing but the
machine makes one slower.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answer_path import machine

from preceptor_clients.contract import wire
from preceptor_clients.contract.schemas import (
    LogprobsReply,
    PrefixAnswer,
    PrefixQuery,
    PrefixResult,
    Prompt,
)
from preceptor_clients.sdk.answers import Distributions, build_answer

VOCAB_SIZE = 151_936
_ARRAYS = (
    "token_ids_P",
    "mask_P",
    "num_entries_P",
    "ids_PK",
    "logprobs_PK",
    "tail_P",
    "own_logprobs_P",
    "own_mask_P",
)


def made_answer(num_positions: int, top_k: int, *, exact: bool) -> PrefixAnswer:
    """Best entries of random logits, as a language model of high entropy has them."""
    rng = np.random.default_rng(0)
    logprobs_PK = -np.sort(-rng.normal(-7.0, 1.5, (num_positions, top_k)), 1).astype(np.float32)
    ids_PK = np.stack([rng.choice(VOCAB_SIZE, top_k, replace=False) for _ in range(num_positions)])
    query = PrefixQuery(
        prompt=Prompt(ids=np.arange(4, dtype=np.int32)),
        response_ids=rng.integers(0, VOCAB_SIZE, num_positions).astype(np.int32),
        vocab_fingerprint="cd" * 32,
        top_k=top_k,
    )
    distributions = Distributions(
        ids_PK=ids_PK.astype(np.int32),
        logprobs_PK=logprobs_PK,
        own_logprobs_P=rng.normal(-5.0, 1.0, num_positions).astype(np.float32).clip(max=0.0),
    )
    return build_answer(query, distributions, expert="e", expert_version="1", exact=exact)


def frame_way(answer: PrefixAnswer, *, compress: bool = False) -> tuple[bytes, Any, Any]:
    """A reply as this platform sends it."""
    message = LogprobsReply(results=(PrefixResult(answer=answer),))

    def encode() -> bytes:
        return wire.render(message, wire.FRAME, compress=compress)

    body = encode()
    return body, encode, lambda: wire.parse(LogprobsReply, body, wire.FRAME)


def vllm_way(answer: PrefixAnswer) -> tuple[bytes, Any, Any]:
    """`prompt_logprobs` of vLLM's completions; its objects are made beforehand, at no charge."""
    rows = [
        {
            str(token): {"logprob": logprob, "rank": rank, "decoded_token": f" t{token}"}
            for rank, (token, logprob) in enumerate(zip(ids, logprobs, strict=True), 1)
        }
        for ids, logprobs in zip(answer.ids_PK.tolist(), answer.logprobs_PK.tolist(), strict=True)
    ]

    def encode() -> bytes:
        return json.dumps({"choices": [{"prompt_logprobs": rows}]}).encode()

    body = encode()

    def decode() -> tuple[np.ndarray, np.ndarray]:
        read = json.loads(body)["choices"][0]["prompt_logprobs"]
        ids = np.array([[int(token) for token in row] for row in read], np.int32)
        logprobs = np.array([[e["logprob"] for e in row.values()] for row in read], np.float32)
        return ids, logprobs

    return body, encode, decode


def torch_way(answer: PrefixAnswer) -> tuple[bytes, Any, Any]:
    """A dictionary of tensors, loaded without trusting the sender."""
    arrays = {name: torch.from_numpy(np.array(getattr(answer, name))) for name in _ARRAYS}

    def encode() -> bytes:
        buffer = io.BytesIO()
        torch.save(arrays, buffer)
        return buffer.getvalue()

    body = encode()

    def decode() -> dict[str, np.ndarray]:
        read = torch.load(io.BytesIO(body), weights_only=True)
        return {name: tensor.numpy() for name, tensor in read.items()}

    return body, encode, decode


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU that one call takes."""
    began = time.thread_time()
    work()
    return 1000 * (time.thread_time() - began)


def measure(num_positions: int, top_k: int, turns: int) -> dict[str, dict[str, float]]:
    """For each way: milliseconds to encode and to decode, and bytes per position."""
    rounded = made_answer(num_positions, top_k, exact=False)
    ways = {
        "frame": frame_way(rounded),
        "frame, zstd": frame_way(rounded, compress=True),
        "frame, float32": frame_way(made_answer(num_positions, top_k, exact=True)),
        "vLLM-shaped JSON": vllm_way(rounded),
        "torch.save": torch_way(rounded),
    }
    fastest = {name: [float("inf"), float("inf")] for name in ways}
    for _ in range(turns):
        for name, (_, encode, decode) in ways.items():
            times = (cpu_ms(encode), cpu_ms(decode))
            fastest[name] = [min(a, b) for a, b in zip(fastest[name], times, strict=True)]
    return {
        name: {
            "encode ms": round(fastest[name][0], 3),
            "decode ms": round(fastest[name][1], 3),
            "both ms": round(sum(fastest[name]), 3),
            "bytes per position": round(len(body) / num_positions, 1),
        }
        for name, (body, _, _) in ways.items()
    }


def main() -> None:
    """Measures, prints and, where asked, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.positions, arguments.top_k, arguments.turns)
    frame = found["frame"]
    result = {
        "machine": machine(),
        "positions": arguments.positions,
        "top_k": arguments.top_k,
        "ways": found,
        "JSON / frame": round(found["vLLM-shaped JSON"]["both ms"] / frame["both ms"], 1),
        "torch.save / frame": round(found["torch.save"]["both ms"] / frame["both ms"], 2),
        "bytes, JSON / frame": round(
            found["vLLM-shaped JSON"]["bytes per position"] / frame["bytes per position"], 1
        ),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
