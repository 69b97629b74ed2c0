"""Time and memory of a head with its loss, forward and backward: in chunks, dense, and TRL's.

    python benchmarks/lean_head.py             # writes benchmarks/results/lean_head.json

2,048 response positions of 8 groups of 4, hidden states of 1,024, a vocabulary of 151,936, float32:
the sizes of Qwen3-0.6B. Every run is a process of its own and takes two steps, the first for memory
and the second for time. Ways take turns; figures are medians over rounds, ratios medians of ratios.

| way | what |
|---|---|
| `dense` | `dense_head` with DistIL, entropies for metrics included |
| `dense, bare` | log_softmax, gather, cross-entropy on K ids, and nothing else |
| `lean` | `LeanHead` with the same DistIL |
| `lean, local` | the same without the future term |
| `lean, two passes` | the same with the logits computed again in the backward pass |
| `lean, one id` | `LeanHead` with GRPO, which looks at the sampled token |
| `TRL, one id` | TRL's `ChunkedLogProbFunction` with entropies |
| `TRL, K ids` | TRL's loss of its asynchronous distillation trainer, forward KL with a tail |

Memory is the highest resident size during the first step, less that before it, less one gradient of
the weights. It is given in float32 [N, V] tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answer_path import machine
from torch import Tensor, nn

from preceptor_clients.targets.builder import Target, TargetComponent
from preceptor_trainer.learner.shares import shares_of
from preceptor_trainer.model.batch import TrainBatch, TrainRollout, collate
from preceptor_trainer.model.heads.dense import dense_head
from preceptor_trainer.model.heads.head import Head
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.objectives import Objective
from preceptor_trainer.objectives.distil import DistIL
from preceptor_trainer.objectives.grpo import GRPO

RESULT = Path(__file__).parent / "results" / "lean_head.json"
GROUP_SIZE = 4
WITH_K = ("dense", "dense, bare", "lean", "lean, local", "lean, two passes", "TRL, K ids")
WITH_ONE = ("lean, one id", "TRL, one id")
TRL_VOCABULARY_CHUNK = 32_768
TRL_ROWS_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of one way."""

    way: str
    num_ids: int
    rows: int = 2048
    hidden: int = 1024
    vocabulary: int = 151_936
    dtype: str = "float32"
    threads: int = 2


# ---------------------------------------------------------------- one run, in a process of its own


def run(case: Case) -> dict[str, float]:
    """Seconds of a step, and its memory."""
    torch.set_num_threads(case.threads)
    # What is loaded and allocated once is not a step's.
    step_of(Case(way=case.way, num_ids=4, rows=64, hidden=16, vocabulary=512))()
    step = step_of(case)
    before = resident("VmRSS")
    step()
    peak = resident("VmHWM") - before
    gradient = case.hidden * case.vocabulary * getattr(torch, case.dtype).itemsize
    began, cpu_began = time.perf_counter(), time.process_time()
    step()
    return {
        "seconds": time.perf_counter() - began,
        "cpu seconds": time.process_time() - cpu_began,
        "MiB": (peak - gradient) / 2**20,
        "logits": (peak - gradient) / (4 * case.rows * case.vocabulary),
    }


def step_of(case: Case) -> Callable[[], None]:
    """Forward and backward pass from hidden states."""
    dtype: torch.dtype = getattr(torch, case.dtype)
    batch = make_batch(case)
    output = nn.Linear(case.hidden, case.vocabulary, bias=False, dtype=dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        output.weight.normal_(std=0.08)
    hidden_NH = torch.randn(case.rows, case.hidden).to(dtype).requires_grad_()
    loss = loss_of(case, hidden_NH, output, batch)

    def step() -> None:
        hidden_NH.grad = output.weight.grad = None
        loss().backward()

    return step


def loss_of(
    case: Case, hidden_NH: Tensor, output: nn.Linear, batch: TrainBatch
) -> Callable[[], Tensor]:
    """The loss of a way, to be called for each step."""
    ours: dict[str, tuple[Head, Objective]] = {
        "dense": (dense_head, DistIL()),
        "lean": (LeanHead(), DistIL()),
        "lean, local": (LeanHead(), DistIL(future="none")),
        "lean, two passes": (LeanHead(), DistIL(credit="all")),
        "lean, one id": (LeanHead(), GRPO()),
    }
    if case.way in ours:
        head, objective = ours[case.way]
        return lambda: through(head, objective, hidden_NH, output, batch)
    others = {"dense, bare": bare, "TRL, one id": trl_one_id, "TRL, K ids": trl_k_ids}
    return lambda: others[case.way](hidden_NH, output.weight, batch)


def through(
    head: Head, objective: Objective, hidden_NH: Tensor, output: nn.Module, batch: TrainBatch
) -> Tensor:
    """As in the learner."""
    (share,) = shares_of([batch], objective, no_other_batch, torch.float32)
    return head.loss(hidden_NH, output, batch, objective.needs, share).loss


def no_other_batch(batches: Sequence[TrainBatch]) -> Any:
    """All groups are whole."""
    raise AssertionError("a group is split")


def targets_of(batch: TrainBatch) -> tuple[Tensor, Tensor]:
    """[N, K] ids and probabilities."""
    real = batch.response_mask_BT
    return batch.targets.ids_BTEK[real][:, 0], batch.targets.probs_BTEK[real][:, 0]


def bare(hidden_NH: Tensor, weight_VH: Tensor, batch: TrainBatch) -> Tensor:
    """The least that a dense step does."""
    ids_NK, probs_NK = targets_of(batch)
    logprobs_NV = (hidden_NH @ weight_VH.T).float().log_softmax(1)
    return -(probs_NK * logprobs_NV.gather(1, ids_NK)).sum()


def trl_one_id(hidden_NH: Tensor, weight_VH: Tensor, batch: TrainBatch) -> Tensor:
    """As TRL's `fused_lm_head` calls it, for its trainers with rewards."""
    from trl.kernels import ChunkedLogProbFunction

    ids_N = batch.response_ids_BT[batch.response_mask_BT]
    logprobs_N, *_ = ChunkedLogProbFunction.apply(
        hidden_NH, weight_VH, None, ids_N, 1.0, TRL_VOCABULARY_CHUNK, None, 1.0, ("entropy",)
    )
    return -logprobs_N.sum()


def trl_k_ids(hidden_NH: Tensor, weight_VH: Tensor, batch: TrainBatch) -> Tensor:
    """As its trainer calls it."""
    from trl.experimental.async_distillation.async_distillation_trainer import _chunked_jsd_loss

    ids_NK, probs_NK = targets_of(batch)
    loss, *_ = _chunked_jsd_loss(
        hidden_NH,
        weight_VH,
        None,
        1.0,
        None,
        ids_NK,
        probs_NK.clamp(min=1e-30).log(),
        ids_NK >= 0,
        0.0,
        1.0,
        True,
        None,
        0,
        TRL_ROWS_CHUNK,
    )
    return loss


def make_batch(case: Case) -> TrainBatch:
    """Groups of rollouts of one length, with random targets of K ids."""
    rng = np.random.default_rng(0)
    num_rollouts = max(GROUP_SIZE, case.rows // 64)
    length = case.rows // num_rollouts
    return collate(
        [
            TrainRollout(
                rollout_id=str(i),
                group=i // GROUP_SIZE,
                prompt_ids=[0],
                response_ids=rng.integers(case.vocabulary, size=length).tolist(),
                reward=float(i % 2),
                target=make_target(rng, str(i), length, case),
            )
            for i in range(num_rollouts)
        ]
    )


def make_target(rng: np.random.Generator, name: str, length: int, case: Case) -> Target:
    """Different ids at every position, and a tail."""
    probs_TK = rng.dirichlet(np.full(case.num_ids + 1, 0.3), length).astype(np.float32)
    # One of each of K parts of the vocabulary, so that no id is there twice.
    width = case.vocabulary // case.num_ids
    ids_TK = np.arange(case.num_ids) * width + rng.integers(width, size=(length, case.num_ids))
    component = TargetComponent(
        answer_id="answer",
        expert="random",
        kind="topk",
        ids_TK=ids_TK.astype(np.int32),
        probs_TK=probs_TK[:, :-1],
        tail_T=probs_TK[:, -1],
        weight_T=np.ones(length, np.float32),
        own_logprobs_T=np.zeros(length, np.float32),
        own_mask_T=np.zeros(length, np.bool_),
        candidate_logprobs_TC=np.zeros((length, 0), np.float32),
        candidate_mask_TC=np.zeros((length, 0), np.bool_),
    )
    return Target(
        rollout_id=name, components=(component,), candidate_ids_TC=np.zeros((length, 0), np.int32)
    )


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/self/status")


# ---------------------------------------------------------------- errors


def errors(case: Case) -> dict[str, float]:
    """Relative errors against the dense head in float64, on the same numbers in float32.

    Those of DistIL with its future term are the objective's: costs-to-go and baselines are sums in
    float32 that nearly cancel. The dense head in float32 has them too.
    """
    torch.set_num_threads(case.threads)
    batch = make_batch(case)
    torch.manual_seed(0)
    weight_VH = torch.randn(case.vocabulary, case.hidden) * 0.08
    hidden_NH = torch.randn(case.rows, case.hidden)
    # Several chunks also on few rows.
    lean = LeanHead(chunk_bytes=4 * case.vocabulary * case.rows // 4)
    found: dict[str, float] = {}
    for name, objective in (("local", DistIL(future="none")), ("both terms", DistIL())):
        exact = results(dense_head, objective, hidden_NH.double(), weight_VH.double(), batch)
        for head_name, head in (("lean", lean), ("dense", dense_head)):
            values = results(head, objective, hidden_NH, weight_VH, batch)
            found |= {
                f"{head_name}, {name}: {key}": float(
                    (values[key].double() - value).norm() / value.norm()
                )
                for key, value in exact.items()
            }
    return found


def results(
    head: Head, objective: Objective, hidden_NH: Tensor, weight_VH: Tensor, batch: TrainBatch
) -> dict[str, Tensor]:
    """Loss, gradients and statistics."""
    output = nn.Linear(*reversed(weight_VH.shape), bias=False, device="meta")
    output.weight = nn.Parameter(weight_VH)
    hidden_NH = hidden_NH.detach().requires_grad_()
    (share,) = shares_of([batch], objective, no_other_batch, hidden_NH.dtype)
    result = head.loss(hidden_NH, output, batch, objective.needs, share)
    result.loss.backward()
    assert hidden_NH.grad is not None
    assert output.weight.grad is not None
    stats = {name: value for name, value in vars(result.stats).items() if value is not None}
    gradients = {"hidden states": hidden_NH.grad, "weights": output.weight.grad}
    return {"loss": result.loss.detach(), **gradients, **stats}


# ---------------------------------------------------------------- all runs


def in_a_process(mode: str, case: Case, options: argparse.Namespace) -> dict[str, float]:
    """What `mode` returns for a case, from a fresh process."""
    command = [sys.executable, __file__, "--threads", str(options.threads), mode]
    made = subprocess.run(
        [*command, json.dumps(asdict(case))], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(made.stdout.splitlines()[-1])


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Every way with every number of ids."""
    fixed = {"rows": options.rows, "hidden": options.hidden, "vocabulary": options.vocabulary}
    cases = [
        Case(way=way, num_ids=num_ids, threads=options.threads, **fixed)
        for num_ids in options.ids
        for way in WITH_K
    ]
    cases += [Case(way=way, num_ids=1, threads=options.threads, **fixed) for way in WITH_ONE]
    return [case for case in cases if not options.ways or case.way in options.ways]


def measure(options: argparse.Namespace) -> dict[Case, list[dict[str, float]]]:
    """Rounds of all cases in turns; the order is reversed in every other one."""
    cases = cases_of(options)
    runs: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(options.rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            runs[case].append(in_a_process("--case", case, options))
            print(f"round {number + 1}: {case.way}, K = {case.num_ids}", file=sys.stderr)
    return runs


def summary(
    runs: dict[Case, list[dict[str, float]]], by: str
) -> list[dict[str, str | int | float]]:
    """A row for each case; `by` is the kind of seconds that is compared."""
    dense = {case.num_ids: found for case, found in runs.items() if case.way == "dense"}
    rows: list[dict[str, str | int | float]] = []
    for case, found in runs.items():
        row: dict[str, str | int | float] = {"way": case.way, "K": case.num_ids}
        row |= {name: round(median(found, name), 3) for name in found[0]}
        beside = dense.get(case.num_ids)
        if beside is not None:
            ratios = [a[by] / b[by] for a, b in zip(found, beside, strict=True)]
            row["times dense"] = round(statistics.median(ratios), 3)
        rows.append(row)
    return rows


def median(found: Sequence[dict[str, float]], name: str) -> float:
    """Over rounds."""
    return statistics.median(one[name] for one in found)


def show(rows: Sequence[dict[str, str | int | float]]) -> None:
    """The table for people."""
    columns = ("way", "K", "seconds", "cpu seconds", "times dense", "MiB", "logits")
    widths = [max(len(c), *(len(str(row.get(c, ""))) for row in rows)) for c in columns]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        cells = [str(row.get(c, "")).ljust(w) for c, w in zip(columns, widths, strict=True)]
        print("  ".join(cells).rstrip())


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ids", type=int, nargs="+", default=[20, 64, 100])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ways", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--case", help="one run, for this program itself")
    parser.add_argument("--errors", help="one comparison, for this program itself")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run(Case(**json.loads(options.case)))))
        return
    if options.errors:
        print(json.dumps(errors(Case(**json.loads(options.errors)))))
        return
    described = machine()
    is_shared = described["load before"] >= described["cores"] / 2
    runs = measure(options)
    # Wall-clock says nothing about a machine that others use.
    rows = summary(runs, "cpu seconds" if is_shared else "seconds")
    exact = Case(
        way="lean", num_ids=64, rows=64, hidden=options.hidden, vocabulary=options.vocabulary
    )
    wrong = in_a_process("--errors", exact, options)
    result = {
        "machine": described
        | {
            "threads": options.threads,
            "torch": torch.__version__,
            "other work beside it": is_shared,
        },
        "sizes": {"N": options.rows, "H": options.hidden, "V": options.vocabulary},
        "rounds": options.rounds,
        "rows": rows,
        "relative errors against float64, of 64 rows in 4 chunks": wrong,
    }
    show(rows)
    print("relative errors against float64")
    print(*(f"{name} {value:.1e}" for name, value in wrong.items()), sep="\n")
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
