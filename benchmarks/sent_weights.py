"""How long a version takes from the trainer's tensors to a server that can begin to load it.

    python benchmarks/sent_weights.py      # writes benchmarks/results/sent_weights.json

Weights of Qwen3-0.6B's size in bfloat16, on a CPU, four ways: as files on the disk and in shared
memory, with their SHA-256, as runs publish them (`WeightFolder.write`); sent over this machine's
loopback to another process, which has them in shared memory then (`[rollout.sampler] weights =
"sent"`); and broadcast to it by gloo, one tensor after another (`"broadcast"`). Loading, which all
ways have in common, is left out, and so is what the gateway does with files. The ways take turns;
ratios are medians over rounds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from answer_path import machine
from torch import Tensor
from turns import in_turns, middle, times_as_long

from preceptor_clients.vllm_expert.fetched_weights import drop
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.sampling.held_weights import held
from preceptor_trainer.sampling.weight_group import WeightGroup, outline_of

HERE = Path(__file__).parent
LAYERS, HIDDEN, VOCAB = 28, 1024, 151_936
MATRICES = [(2048, 1024), (1024, 1024), (1024, 1024), (1024, 2048), (3072, 1024), (3072, 1024)]
NAME = "benchmark"
WORKER = """
import json, sys
from preceptor_clients.vllm_expert.broadcast_weights import joined, received
from preceptor_clients.vllm_expert.fetched_weights import fetch
for line in sys.stdin:
    what, argument = json.loads(line)
    if what == "join":
        group = joined("127.0.0.1", argument, 2)
    elif what == "fetch":
        fetch(argument, "benchmark")
    else:
        for _ in received(group, argument):
            pass
    print("done", flush=True)
"""


def main(
    seconds: Annotated[float, typer.Option(help="For the rounds.")] = 90,
    disk: Annotated[Path, typer.Option(help="A folder on the disk.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="The result.")] = HERE / "results" / "sent_weights.json",
) -> None:
    """Measures, prints, writes."""
    disk.mkdir(parents=True, exist_ok=True)
    weights = weights_like_qwen3()
    command = [sys.executable, "-c", WORKER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        group = WeightGroup("127.0.0.1", size=2)
        begin(other, "join", group.port)
        group.meet()
        end(other)
        rounds = {
            "sent": partial(sent, weights, other),
            "broadcast": partial(broadcast, weights, other, group),
            "files in shared memory": partial(written, weights, Path("/dev/shm")),
            "files on the disk": partial(written, weights, disk),
        }
        walls, _ = in_turns(rounds, seconds)
        other.stdin.close()
    drop(NAME)
    result = {
        "machine": machine(),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "bytes": sum(tensor.nbytes for tensor in weights.values()),
        **{f"{name}, seconds": round(middle(walls, name), 2) for name in rounds},
        **{
            f"{name}, times as long as sent": times_as_long(walls, name, "sent")
            for name in rounds
            if name != "sent"
        },
        "wall-clock seconds of rounds": walls,
    }
    text = json.dumps(result, indent=1)
    print(text)
    out.write_text(text + "\n")


def weights_like_qwen3() -> dict[str, Tensor]:
    """Tensors of the sizes that matter; norms are left out."""
    sizes = {"embedding": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        sizes |= {f"{layer}.{i}": size for i, size in enumerate([*MATRICES, (1024, 3072)])}
    return {name: torch.randn(size).bfloat16() for name, size in sizes.items()}


def sent(weights: dict[str, Tensor], other: Any) -> None:
    """Until another process has the file."""
    with held(weights, "127.0.0.1") as url:
        begin(other, "fetch", url)
        end(other)


def broadcast(weights: dict[str, Tensor], other: Any, group: WeightGroup) -> None:
    """Until another process has had each tensor."""
    begin(other, "receive", outline_of(weights))
    group.send(weights)
    end(other)


def begin(other: Any, what: str, argument: Any) -> None:
    """Tells the other process what to do."""
    other.stdin.write(json.dumps([what, argument]) + "\n")
    other.stdin.flush()


def end(other: Any) -> None:
    """Waits for it."""
    assert other.stdout.readline() == "done\n"


def written(weights: dict[str, Tensor], root: Path) -> None:
    """Until file and manifest are there."""
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        WeightFolder(folder, "p", "0" * 64).write(weights, "p/l0/1", parent=None, checkpoint=False)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
