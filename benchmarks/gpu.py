"""Everything that needs a GPU, within 12 minutes, as one JSON.

    python benchmarks/gpu.py                           # writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --vllm ../vllm/bin/python # rollouts and pushes by vLLM as well
    python benchmarks/gpu.py --device cpu --tiny       # the same code at sizes of nothing

    head      head and DistIL, forward and backward, at 8,192 x 4,096 x 151,936 with 64 ids a row in
              bfloat16, beside Liger's fused linear cross-entropy where that is installed. Aim on an
              H200: 60 ms, 1.15 times Liger's time, 7 GiB
    update    one DistIL update of a model of the shape of Qwen3-0.6B on 8 responses of 8,192
              tokens. Aim: 60 GB on the device in all, an MFU of 40 %
    trl       the same by TRL's SDPO trainer, its teacher's pass included (`gpu_trl.py`), where TRL
              is installed
    push      from the engine's weights to a sampler that draws with them, in float32 and as
              `model.publish = "bfloat16"` has it. Aim: 1 s
    sampling  tokens a second of the local sampler, and of vLLM. Aim: 10 times as many
    scoring   positions a second through gateway, dispatcher and expert (`scoring_engine.py`). Aim:
              38 thousand
    steps     five steps of `preceptor train`: how busy the device was, and dropped answers. Aim:
              70 %, and none
    export    the run of `steps` by `preceptor export`, loaded by transformers: how far its
              log-probs are from those of the trained version, and that it is another model than
              the untrained one

A part that fails, or that lacks what it needs, is left out with the reason. Each is a process of
its own with a deadline; with `--tiny` all are in this one, and those that start services are left
out, and `trl` is where it is not asked for by `--only trl`: TRL takes seconds to load.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from answer_path import machine
from lean_head import Case, make_batch, make_target, no_other_batch
from scoring_engine import Made
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from preceptor_clients.kit.files import make_key_file
from preceptor_trainer.commands.export import export_command
from preceptor_trainer.kit.placement import placement
from preceptor_trainer.learner.learner import Learner, OptimiserConfig
from preceptor_trainer.learner.policy import Policy, WeightFolder
from preceptor_trainer.learner.rounding import Rounding
from preceptor_trainer.learner.shares import shares_of
from preceptor_trainer.model.batch import TrainBatch, TrainRollout, make_batches
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.model.shape import Shape, shape_of
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.run.export import version_folder
from preceptor_trainer.run.standing import Lineage, remember
from preceptor_trainer.sampling.in_process import InProcessSampler
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published, SampleRequest
from preceptor_trainer.sampling.service import SampledByService

RESULT = Path(__file__).parent / "results" / "gpu.json"
DEADLINE_S: Final = 720.0
_LEAST_S: Final = 15.0
"""A part is not begun with less."""
_DENSE_BF16_TFLOPS: Final = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}
Figures = dict[str, Any]


_SMALLEST: Final = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


class LeftOut(Exception):
    """A part cannot be measured here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is."""

    rows: int = 8192
    hidden: int = 4096
    vocabulary: int = 151_936
    num_ids: int = 64
    responses: int = 8
    length: int = 8192
    prompts: int = 64
    new_tokens: int = 256
    large: bool = True
    rounds: int = 5


TINY: Final = Sizes(
    rows=64,
    hidden=16,
    vocabulary=256,
    num_ids=4,
    responses=2,
    length=24,
    prompts=2,
    new_tokens=4,
    large=False,
    rounds=1,
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a part has."""

    device: torch.device
    sizes: Sizes
    vllm: Path | None
    folder: Path
    """A place for files; the run of `steps` is there."""

    @property
    def dtype(self) -> Any:
        """Of passes."""
        return "float32" if self.device.type == "cpu" else "bfloat16"

    def made(self) -> Made:
        """The model's folder, made once."""
        return Made(
            self.folder / "model",
            vocab_size=self.sizes.vocabulary,
            max_positions=max(256, self.sizes.length + 8),
            large=self.sizes.large,
            shape=None if self.sizes.large else _SMALLEST,
        )

    def policy(self) -> Policy:
        """The model as a run has it."""
        return Policy(self.made().folder, placement(device=str(self.device), dtype=self.dtype))

    def seconds(self, work: Callable[[], object]) -> list[float]:
        """Of each round, after one that warms up."""
        found: list[float] = []
        for _ in range(self.sizes.rounds + 1):
            began = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - began)
        return found[1:]

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def memory(self, into: Figures, name: str) -> Iterator[None]:
        """Notes the most memory of the device within it, above what was there before."""
        if self.device.type != "cuda":
            yield
            return
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield
        into[name] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 2)

    def most_memory(self) -> Figures:
        """The most memory of the device in this process: held by tensors, and taken from it."""
        if self.device.type != "cuda":
            return {}
        return {
            "tensors in all, GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
            "device memory in all, GB": round(torch.cuda.max_memory_reserved() / 1e9, 2),
        }


# --------------------------------------------------------------------------------------- parts


def head(bench: Bench) -> Figures:
    """Head and loss, forward and backward."""
    sizes = bench.sizes
    case = Case(
        way="lean",
        num_ids=sizes.num_ids,
        rows=sizes.rows,
        hidden=sizes.hidden,
        vocabulary=sizes.vocabulary,
    )
    dtype = torch.float32 if bench.device.type == "cpu" else torch.bfloat16
    batch = make_batch(case).to(bench.device)
    output = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False, device=bench.device, dtype=dtype)
    nn.init.normal_(output.weight, std=0.02)
    hidden_NH = torch.randn(sizes.rows, sizes.hidden, device=bench.device, dtype=dtype)
    hidden_NH.requires_grad_()
    (share,) = shares_of([batch], DistIL(), no_other_batch, torch.float32)

    def ours() -> None:
        hidden_NH.grad = output.weight.grad = None
        LeanHead().loss(hidden_NH, output, batch, DistIL().needs, share).loss.backward()

    found: Figures = {}
    with bench.memory(found, "ours, GiB"):
        ours()
    found["ours, ms"] = _milliseconds(bench.seconds(ours))
    try:
        liger = _liger(hidden_NH, output.weight, batch)
    except LeftOut as error:
        return found | {"Liger": str(error)}
    with bench.memory(found, "Liger, GiB"):
        liger()
    found["Liger, ms"] = _milliseconds(bench.seconds(liger))
    return found | {"times Liger's": round(found["ours, ms"] / found["Liger, ms"], 3)}


def _liger(hidden_NH: Tensor, weight_VH: Tensor, batch: TrainBatch) -> Callable[[], None]:
    if hidden_NH.device.type != "cuda":
        raise LeftOut("its kernels need a GPU")
    try:
        loss_of = importlib.import_module(
            "liger_kernel.transformers"
        ).LigerFusedLinearCrossEntropyLoss(use_token_scaling=True)
    except (ImportError, TypeError) as error:
        raise LeftOut(f"{type(error).__name__}: {error}") from error
    ids_N = batch.response_ids_BT[batch.response_mask_BT]

    def step() -> None:
        hidden_NH.grad = weight_VH.grad = None
        loss_of(weight_VH, hidden_NH, ids_N).backward()

    return step


def update(bench: Bench) -> Figures:
    """One update of a whole model."""
    sizes, policy = bench.sizes, bench.policy()
    case = Case(way="lean", num_ids=sizes.num_ids, vocabulary=sizes.vocabulary, hidden=0, rows=0)
    draw = np.random.default_rng(0)
    rows = [
        TrainRollout(
            rollout_id=str(i),
            group=0,
            prompt_ids=[1, 2, 3, 4],
            response_ids=response_ids,
            reward=float(i % 2),
            target=make_target(draw, str(i), sizes.length, case),
        )
        for i, response_ids in enumerate(_responses(sizes))
    ]
    # A response a pass: its group is split, so that baselines take a pass without gradient.
    batches = make_batches(rows, token_budget=sizes.length + 4)
    learner = Learner(
        policy.model,
        OptimiserConfig(lr=1e-9),
        trunk=policy.trunk,
        head=LeanHead(),
        place=policy.place,
    )
    found: Figures = {}
    learner.step(batches, DistIL())  # makes the moments
    with bench.memory(found, "above weights and moments, GiB"):
        learner.step(batches, DistIL())
    seconds = min(bench.seconds(lambda: learner.step(batches, DistIL()))[:2])
    return found | bench.most_memory() | _rates(seconds, bench)


def _responses(sizes: Sizes) -> list[list[int]]:
    draw = np.random.default_rng(1)
    shape = (sizes.responses, sizes.length)
    return draw.integers(2, sizes.vocabulary, shape).tolist()


def _rates(seconds: float, bench: Bench) -> Figures:
    """Of one update."""
    tflops = _useful_flops(shape_of(bench.folder / "model"), bench.sizes) / seconds / 1e12
    return {
        "seconds": round(seconds, 3),
        "tokens/s": round(bench.sizes.responses * bench.sizes.length / seconds),
        "useful TFLOP/s": round(tflops, 3),
        **_shares_of_peak(tflops, bench),
    }


def trl(bench: Bench) -> Figures:
    """One update of TRL's SDPO trainer on the same responses."""
    try:
        gpu_trl = importlib.import_module("gpu_trl")
    except ImportError as error:
        raise LeftOut(f"{type(error).__name__}: {error}") from error
    seconds = gpu_trl.seconds_of_updates(
        bench.made().folder,
        _responses(bench.sizes),
        bench.device,
        bench.folder / "trl",
        steps=3,
    )
    found = bench.most_memory() | _rates(min(seconds[1:]), bench)
    return found | {"TRL": version("trl"), "seconds of each": [round(one, 3) for one in seconds]}


def _useful_flops(shape: Shape, sizes: Sizes) -> float:
    """One forward and backward pass: six for each weight and token, and causal attention."""
    weights = shape.num_parameters
    attended = shape.num_layers * shape.queries
    tokens = sizes.responses * sizes.length
    return 6.0 * weights * tokens + 6.0 * attended * sizes.length * tokens


def _shares_of_peak(tflops: float, bench: Bench) -> Figures:
    if bench.device.type != "cuda":
        return {}
    a = torch.randn(8192, 8192, device=bench.device, dtype=torch.bfloat16)
    product = min(bench.seconds(lambda: a @ a))
    measured = 2 * 8192**3 / product / 1e12
    name = torch.cuda.get_device_name(bench.device)
    peak = next((value for key, value in _DENSE_BF16_TFLOPS.items() if key in name), None)
    return {
        "a product of 8192 reaches, TFLOP/s": round(measured),
        "share of that": round(tflops / measured, 3),
        "MFU": None if peak is None else round(tflops / peak, 3),
    }


def sampling(bench: Bench) -> Figures:
    """Tokens a second."""
    policy = bench.policy()
    local = InProcessSampler(policy.new_model(), end_ids=(), pad_id=0)
    found: Figures = {"local, tokens/s": round(asyncio.run(_rate(bench, local, policy)))}
    if bench.vllm is None:
        return found | {"vLLM": "name its Python with --vllm"}
    with _vllm(bench) as sampler_of:
        remote = sampler_of(policy)
        found["vLLM, tokens/s"] = round(asyncio.run(_rate(bench, remote, policy)))
    return found | {"times": round(found["vLLM, tokens/s"] / found["local, tokens/s"], 1)}


async def _rate(bench: Bench, sampler: Any, policy: Policy) -> float:
    """Of the faster of two rounds, the first of which warms up."""
    await sampler.load(_published(bench, policy, 0))
    draw = np.random.default_rng(0)
    sizes, rates = bench.sizes, list[float]()
    for seed in range(2):
        prompts = [draw.integers(1, sizes.vocabulary, 64).tolist() for _ in range(sizes.prompts)]
        request = SampleRequest(
            prompts=prompts,
            params=SamplingParams(max_new_tokens=sizes.new_tokens),
            generator=torch.Generator().manual_seed(seed),
        )
        began = time.perf_counter()
        groups = await sampler.sample(request)
        drawn = sum(len(one.response_ids) for group in groups for one in group)
        rates.append(drawn / (time.perf_counter() - began))
    return max(rates)


def _published(
    bench: Bench,
    policy: Policy,
    step: int,
    *,
    weights_root: Path | None = None,
    rounding: Rounding | None = None,
) -> Published:
    learner = Learner(policy.model, OptimiserConfig(lr=1e-9), place=policy.place)
    folder = WeightFolder(
        weights_root or bench.folder / "weights",
        "gpu",
        policy.vocab_fingerprint,
        source=policy.folder,
        config=policy.model.config,
    )
    weights, version = _version_of(learner, step, rounding), folder.version("l0", step)
    manifest = folder.write(weights, version, parent=None, checkpoint=False)
    return Published(version=version, tensors=weights, manifest=manifest)


@contextmanager
def _vllm(bench: Bench) -> Iterator[SampledByService]:
    """vLLM's service, in the environment that has it."""
    assert bench.vllm is not None
    key = bench.folder / "vllm.key"
    make_key_file(key)
    port = 8396
    words = [
        *(str(bench.vllm.parent / "preceptor"), "serve"),
        *("preceptor_clients.vllm_expert.service:VLLMExpert", "--port", str(port)),
        *("--key-file", str(key), "--option", f"model={bench.folder / 'model'}"),
        *("--option", f"weights_roots={json.dumps([str(bench.folder / 'weights')])}"),
    ]
    with (bench.folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for_port(port, process, bench.folder / "vllm.log")
        yield SampledByService(url=f"http://127.0.0.1:{port}", key_file=key)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order, or else at once."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    import socket

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LeftOut(f"vLLM ended: {log.read_text(errors='replace')[-300:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise LeftOut("vLLM was not ready after 240 s")


def push(bench: Bench) -> Figures:
    """A new version, until a sampler draws with it."""
    policy = bench.policy()
    learner = Learner(policy.model, OptimiserConfig(lr=1e-9), place=policy.place)
    local = InProcessSampler(policy.new_model(), end_ids=(), pad_id=0)
    numbers = itertools.count(1)
    lower = Rounding(seed=0, by_chance=bench.dtype == "float32")
    kinds: dict[str, Rounding | None] = {"float32": None, "bfloat16": lower}

    def in_process(rounding: Rounding | None) -> None:
        step = next(numbers)
        tensors = _version_of(learner, step, rounding)
        asyncio.run(local.load(Published(version=str(step), tensors=tensors)))

    found: Figures = {
        f"to the trainer's own sampler, {kind}, s": round(
            min(bench.seconds(partial(in_process, rounding))), 3
        )
        for kind, rounding in kinds.items()
    }
    if bench.vllm is None:
        return found | {"vLLM": "name its Python with --vllm"}
    with _vllm(bench) as sampler_of:
        remote = sampler_of(policy)
        for kind, rounding in kinds.items():
            seconds = [
                _seconds_to(remote, bench, policy, next(numbers), rounding) for _ in range(3)
            ]
            found[f"to vLLM over files, and one token, {kind}, s"] = round(min(seconds[1:]), 3)
    return found


def _seconds_to(
    sampler: Any, bench: Bench, policy: Policy, step: int, rounding: Rounding | None
) -> float:
    began = time.perf_counter()
    asyncio.run(_load_and_draw(sampler, _published(bench, policy, step, rounding=rounding)))
    return time.perf_counter() - began


def _version_of(learner: Learner, step: int, rounding: Rounding | None) -> dict[str, Tensor]:
    weights = learner.weights()
    return weights if rounding is None else rounding.rounded(weights, step)


async def _load_and_draw(sampler: Any, published: Published) -> None:
    await sampler.load(published)
    request = SampleRequest(
        prompts=[[1, 2, 3]],
        params=SamplingParams(max_new_tokens=1),
        generator=torch.Generator().manual_seed(0),
    )
    await sampler.sample(request)


def export(bench: Bench) -> Figures:
    """The run of `steps` as a folder for everybody."""
    run, out = bench.folder / "runs" / "run", bench.folder / "exported"
    if not bench.sizes.large:
        _write_run(bench, run)
    if not run.exists():
        raise LeftOut("there is no run of `steps`")
    export_command(str(run), out)
    began = time.perf_counter()
    again: Any = AutoModelForCausalLM.from_pretrained(out)
    seconds = time.perf_counter() - began
    trained = Policy(version_folder(run)).model
    untrained: Any = AutoModelForCausalLM.from_pretrained(bench.folder / "model")
    ids = torch.arange(1, min(200, bench.sizes.vocabulary), device=bench.device)[None]
    found, wanted, before = (_logprobs(one, ids) for one in (again, trained, untrained))
    return {
        "loaded in, s": round(seconds, 2),
        "largest gap of a log-prob": float((wanted - found).abs().max()),
        "largest change by the run": float((wanted - before).abs().max()),
    }


@torch.no_grad()
def _logprobs(model: Any, ids: Tensor) -> Tensor:
    return model.to(ids.device).float().eval()(input_ids=ids).logits.log_softmax(-1)


def _write_run(bench: Bench, run: Path) -> None:
    """A run of one version, in the place of one that needs services."""
    policy = bench.policy()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.01)
    _published(bench, policy, 5, weights_root=run / "weights")
    remember(run, Lineage(name="l0", parent=None, from_step=0, steps=5))


def scoring(bench: Bench) -> Figures:
    """Positions a second through the API."""
    if not bench.sizes.large:
        raise LeftOut("starts services, which --tiny does not")
    out = bench.folder / "scoring.json"
    words = [sys.executable, str(Path(__file__).parent / "scoring_engine.py"), "--large"]
    words += ["--device", str(bench.device), "--tokens", "4096", "--out", str(out)]
    subprocess.run(words, check=True, timeout=240, capture_output=True)
    return json.loads(out.read_text())


def steps(bench: Bench) -> Figures:
    """Five steps of a run with its self-teacher."""
    if not bench.sizes.large:
        raise LeftOut("starts services, which --tiny does not")
    bench.made()
    rows = [{"prompt": f"t{i} t{i + 1}", "answer": f"t{i}"} for i in range(64)]
    (bench.folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (bench.folder / "judge.py").write_text(
        "def judge(row, response):\n    return float(len(response) % 2)\n"
    )
    (bench.folder / "run.toml").write_text(_RUN.format(device=bench.device, dtype=bench.dtype))
    command = str(Path(sys.executable).parent / "preceptor")
    words = [command, "train", str(bench.folder / "run.toml")]
    busy: list[float] = []
    with (bench.folder / "train.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        watcher = threading.Thread(target=_watch, args=(process, busy), daemon=True)
        watcher.start()
        try:
            code = process.wait(timeout=300)
        finally:
            # Of no effect on a run that has ended; another one ends its services with itself.
            _end(process)
    if code != 0:
        said = (bench.folder / "train.log").read_text(errors="replace")
        raise LeftOut(f"preceptor train ended with {code}: {said[-400:]}")
    lines = (bench.folder / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    dropped = sum(m.get("dropped_answers", 0.0) for m in metrics)
    share = busy_share(busy)
    return {
        "steps": len(metrics),
        "seconds of each": [
            round(sum(v for k, v in m.items() if k.startswith("seconds/")), 2) for m in metrics
        ],
        "device busy, mean from its first work to its last": (
            "nvidia-smi tells nothing" if share is None else round(share, 3)
        ),
        "dropped answers": dropped,
    }


_RUN: Final = """
[model]
path = "model"
device = "{device}"
dtype = "{dtype}"
[data]
train = "train.jsonl"
[feedback]
use = "judge.py:judge"
[rollout]
n = 8
max_tokens = 512
[optim]
prompts_per_step = 8
tokens_per_microbatch = 16384
[run]
steps = 5
save_every = 5
"""


def busy_share(busy: Sequence[float]) -> float | None:
    """Of the time between the first and the last work, pauses included; None without any."""
    working = [place for place, share in enumerate(busy) if share > 0]
    return float(np.mean(busy[working[0] : working[-1] + 1])) if working else None


def _watch(process: subprocess.Popen[bytes], busy: list[float]) -> None:
    """Asks the driver how busy the device is, twice a second."""
    words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    while process.poll() is None:
        try:
            said = subprocess.run(words, capture_output=True, text=True, timeout=5, check=True)
            busy.append(float(said.stdout.splitlines()[0]) / 100)
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return
        time.sleep(0.5)


PARTS: Final[dict[str, Callable[[Bench], Figures]]] = {
    "head": head,
    "update": update,
    "trl": trl,
    "push": push,
    "sampling": sampling,
    "scoring": scoring,
    "steps": steps,
    "export": export,
}


# ----------------------------------------------------------------------------------- together


_OF_ONE_RUN: Final = ("steps", "export")


def _milliseconds(seconds: Sequence[float]) -> float:
    return round(1000 * min(seconds), 2)


def described(device: torch.device) -> Figures:
    """What the figures depend on."""
    found: Figures = {"machine": machine(), "torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "name": properties.name,
            "memory, GiB": round(properties.total_memory / 2**30, 1),
            "CUDA": torch.version.cuda,
        }
    return found


def measured(name: str, bench: Bench) -> Figures:
    """A part's figures, or why there are none."""
    began = time.monotonic()
    try:
        found = PARTS[name](bench)
    except Exception as error:  # a part must not take the others with it
        return {"left out": f"{type(error).__name__}: {error}"[:600]}
    return found | {"took, s": round(time.monotonic() - began, 1)}


def in_a_process(name: str, options: argparse.Namespace, folder: Path, left_s: float) -> Figures:
    """The same in a process of its own, with a deadline."""
    if left_s < _LEAST_S:
        return {"left out": "there was no time left"}
    words = [sys.executable, __file__, "--device", options.device, "--only", name]
    # Others delete what they wrote: versions of this model take gigabytes each.
    words += ["--folder", str(folder)] if name in _OF_ONE_RUN else []
    words += [] if options.vllm is None else ["--vllm", str(options.vllm)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=left_s, check=False)
    except subprocess.TimeoutExpired:
        return {"left out": f"took more than {left_s:.0f} s"}
    if done.returncode != 0:
        return {"left out": f"ended with {done.returncode}: {done.stderr[-400:]}"}
    return json.loads(done.stdout.splitlines()[-1])


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes of nothing, in one process")
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM")
    parser.add_argument("--only", choices=PARTS, help="one part, printed as JSON")
    parser.add_argument("--folder", type=Path, help="for files; a new one is deleted")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(words)
    device = torch.device(options.device)
    sizes = TINY if options.tiny else Sizes()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        folder = options.folder or Path(root)
        bench = Bench(device=device, sizes=sizes, vllm=options.vllm, folder=folder)
        if options.only is not None:
            print(json.dumps(measured(options.only, bench)))
            return
        parts: dict[str, Figures] = {}
        for name in PARTS:
            left_s = DEADLINE_S - (time.monotonic() - began)
            if not options.tiny:
                parts[name] = in_a_process(name, options, folder, left_s)
            elif name == "trl":
                parts[name] = {"left out": "--tiny --only trl runs it"}
            else:
                parts[name] = measured(name, bench)
            print(name, json.dumps(parts[name]), file=sys.stderr)
    result = described(device) | {"tiny": options.tiny, "parts": parts}
    result["took, s"] = round(time.monotonic() - began, 1)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
