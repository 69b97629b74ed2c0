"""Where gateway and dispatcher spend their CPU on the way of an answer, by stage.

    python benchmarks/answer_profile.py --out benchmarks/results/answer_profile.json

The deployment of `answer_path.py`, under the same loads. Each of the two processes is interrupted
after each few milliseconds of CPU (`cpu_samples.py`), and what was used since counts for the stage
of the innermost function that `STAGES` names. Shares depend little on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop
from answer_path import BIG, Questions, Stack, in_groups, machine, measured, running_stack

from preceptor_services.supervisor.child import ChildSpec

HERE: Final = Path(__file__).parent
PROCESSES: Final = ("gateway", "dispatcher")
STAGES: Final[Mapping[str, Sequence[str]]] = {
    "database": ("preceptor_services.store", "sqlalchemy"),
    "files of answers: hash, compression, writing": (
        *("preceptor_services.kit.blobs", "preceptor_services.kit.compression"),
        "preceptor_clients.kit.files",
    ),
    "frames": (
        *("preceptor_clients.contract.frame", "preceptor_clients.contract.wire"),
        *("preceptor_clients.contract.unread", "preceptor_clients.contract.grid"),
        *("preceptor_clients.contract.json_text", "preceptor_services.kit.array_blobs"),
    ),
    "fields of messages": (
        *("pydantic", "preceptor_clients.contract.schemas"),
        "preceptor_clients.contract.arrays",
    ),
    "checks of answers": ("preceptor_clients.contract.checks", "preceptor_services.dispatcher.ask"),
    "keys of questions": (
        *("preceptor_clients.contract.fingerprint", "preceptor_services.questions.keys"),
    ),
    "HTTP server": (
        *("uvicorn", "starlette", "fastapi", "preceptor_clients.sdk", "preceptor_services.gateway"),
        "preceptor_services.registry.keyring",
    ),
    "HTTP client": ("aiohttp", "preceptor_clients.http"),
    "broker": ("redis", "preceptor_services.jobs"),
    "metrics": ("prometheus_client", "preceptor_services.kit.metrics"),
    "questions and jobs": ("preceptor_services.questions", "preceptor_services.registry"),
    "calls and leases": ("preceptor_services.dispatcher",),
}
"""Modules and packages of each stage."""
THREADS: Final = "threads, work that had ended"
"""Work that leaves the interpreter free, such as hashing, ends while others are interrupted."""
REST: Final = "event loop"
_LEAST_SHARE: Final = 2.0
"""Percent; smaller stages are told together."""


class Load(NamedTuple):
    """Requests that are measured."""

    name: str
    num_requests: int
    per_request: int
    in_flight: int
    shape: Mapping[str, int] = {}


_LARGE: Final = Load("answers of 1,024 x 64", 40, 4, 4, BIG)
LOADS: Final = (
    Load("one question at a time", 400, 1, 1),
    Load("64 questions in flight", 1600, 1, 64),
    Load("batches of 64", 40, 64, 4),
    _LARGE,
)
STORED: Final = "stored answers of 1,024 x 64"


def stage_of(stack: Sequence[str]) -> str:
    """The stage of a stack, whose functions are `MODULE:NAME`, the innermost first."""
    for function in stack:
        module = function.partition(":")[0]
        for stage, names in STAGES.items():
            if any(module == name or module.startswith(f"{name}.") for name in names):
                return stage
    return THREADS if "concurrent.futures.thread:_worker" in stack else REST


def shares(rows: Sequence[tuple[Sequence[str], float]]) -> dict[str, float]:
    """Percent of the seconds of each stage, the largest first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for stack, spent in rows:
        seconds[stage_of(stack)] += spent
    total = sum(seconds.values())
    percent = {stage: 100 * spent / total for stage, spent in seconds.items()} if total else {}
    told = {s: p for s, p in percent.items() if p >= _LEAST_SHARE}
    rest = sum(percent.values()) - sum(told.values())
    ordered = dict(sorted(told.items(), key=lambda item: -item[1])) | {"all others": rest}
    return {stage: round(share, 1) for stage, share in ordered.items() if share >= 0.05}


class Sampled:
    """The two processes of a deployment, run under `cpu_samples.py`."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: folder / f"{name}.json" for name in PROCESSES}

    def command(self, spec: ChildSpec) -> Sequence[str]:
        """The command of a process of the deployment."""
        if spec.name not in PROCESSES:
            return spec.command
        module = spec.command[spec.command.index("-m") + 1 :]
        script = str(HERE / "cpu_samples.py")
        return (sys.executable, script, str(self._files[spec.name]), *module)

    async def profile(self, stack: Stack, bodies: Sequence[bytes], load: Load) -> dict[str, Any]:
        """Sends requests; the shares of each process that has work with them."""
        for name, file in self._files.items():
            file.unlink(missing_ok=True)
            os.kill(stack.pids[name], signal.SIGUSR1)
        done = await measured(stack, stack.gateway, bodies, load.in_flight, load.per_request)
        for name in PROCESSES:
            os.kill(stack.pids[name], signal.SIGUSR2)
        return {
            name: shares(await _rows(file))
            for name, file in self._files.items()
            if done.cpu_ms[name] > _IDLE_MS
        }


_IDLE_MS: Final = 0.02
"""CPU per question below which a process has nothing to do with a load."""


async def _rows(file: Path) -> list[tuple[list[str], float]]:
    while not file.exists():
        await asyncio.sleep(0.02)
    return json.loads(file.read_text())


async def profile_all(scale: int) -> dict[str, Any]:
    """Every load, warmed up first."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        sampled = Sampled(Path(name))
        async with running_stack(sampled.command) as stack:
            questions = Questions()
            for load in LOADS:
                count = load.num_requests * load.per_request * scale
                queries = questions.fresh(count, **load.shape)
                bodies = [questions.asking(g) for g in in_groups(queries, load.per_request)]
                warm = len(bodies) // 4
                await measured(stack, stack.gateway, bodies[:warm], load.in_flight)
                found[load.name] = await sampled.profile(stack, bodies[warm:], load)
                if load is _LARGE:
                    again = [questions.asking([query]) for query in queries]
                    stored = Load(STORED, len(again), 1, 8)
                    found[STORED] = await sampled.profile(stack, again, stored)
    return found


def table(found: Mapping[str, Any]) -> str:
    """The shares as text."""
    lines: list[str] = []
    for load, processes in found.items():
        for process, rows in processes.items():
            lines.append(f"\n{load}: {process}")
            lines += [f"  {share:5.1f} %  {stage}" for stage, share in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and, where asked, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=2, help="multiplies the number of questions")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = {"machine": machine()}
    result["figures"] = uvloop.run(profile_all(arguments.scale))
    print(table(result["figures"]))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
