"""What the way of an answer costs: gateway, SQL, broker, dispatcher and expert as real processes.

    python benchmarks/answer_path.py --rounds 5 --out benchmarks/results/answer_path.json
    python benchmarks/answer_path.py --once --only full        # one round of some figures

The expert answers at once. Each figure stands beside its bare baseline of the same round: an ASGI
application that does nothing on the same server (uvicorn, uvloop, httptools), or the expert asked
directly. Requests are made before the clock starts, and a client that only writes bytes sends them,
because its own work would count against the machine's few cores; replies are read and checked
afterwards. Every deployment is warmed up first. Seconds of CPU per question, of each process but
the client, depend least on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from http_load import post, run
from mock_expert import make_query, mock_answer

from preceptor_clients.contract import wire
from preceptor_clients.contract.deployment import (
    DeployedGateway,
    Deployment,
    local_service,
    to_toml,
)
from preceptor_clients.contract.schemas import (
    LogprobsCall,
    LogprobsOutcomes,
    LogprobsReply,
    LogprobsRequest,
    PrefixQuery,
    PrefixResult,
    PrefixSubmission,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_services.jobs.embedded_broker import free_port
from preceptor_services.kit.settings import load_settings
from preceptor_services.supervisor.child import Child, ChildSpec
from preceptor_services.supervisor.plan import make_plan

HERE = Path(__file__).parent
DEPLOYMENT = Deployment(
    gateway=DeployedGateway(port=0),
    experts={
        "mock": local_service("mock", "mock_expert:Mock").model_copy(update={"self_test": False})
    },
)
BIG = {"num_tokens": 1024, "top_k": 64}
_WAIT_MS = 60_000
Figures = dict[str, float]


class Target(NamedTuple):
    """Where requests go, and with which key."""

    url: str
    path: str
    key: str | None

    def request(self, body: bytes) -> bytes:
        """The bytes of one request."""
        return post(self.url, self.path, body, self.key, wire.FRAME)


class Stack(NamedTuple):
    """A running deployment."""

    gateway: Target
    expert: Target
    pids: Mapping[str, int]
    broker: str
    """URL of the broker."""


class Questions:
    """Makes requests of questions; no key is used twice."""

    def __init__(self) -> None:
        self._next = 0

    def fresh(self, count: int, **shape: int) -> list[PrefixQuery]:
        """Questions that were never asked before."""
        first, self._next = self._next, self._next + count
        return [make_query(number, **shape) for number in range(first, first + count)]

    def asking(self, queries: Sequence[PrefixQuery]) -> bytes:
        """A request to the gateway with these, each under a new key."""
        first, self._next = self._next, self._next + len(queries)
        submissions = tuple(
            PrefixSubmission(idempotency_key=f"k{first + i}", query=query)
            for i, query in enumerate(queries)
        )
        return wire.render(
            LogprobsRequest(expert="mock", submissions=submissions, wait_ms=_WAIT_MS)
        )


def direct(queries: Sequence[PrefixQuery]) -> bytes:
    """The same questions as a call of the expert."""
    return wire.render(LogprobsCall(queries=tuple(queries)))


def in_groups(queries: Sequence[PrefixQuery], size: int) -> list[Sequence[PrefixQuery]]:
    """The queries in requests of so many."""
    return [queries[start : start + size] for start in range(0, len(queries), size)]


def cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU that each process has used; empty where the kernel does not tell."""
    if sys.platform != "linux":
        return {}
    tasks = {name: Path(f"/proc/{pid}/task").glob("*/schedstat") for name, pid in pids.items()}
    return {
        name: sum(int(file.read_text().split()[0]) for file in files) / 1e9
        for name, files in tasks.items()
    }


def rss_mb(pid: int, *, most: bool = False) -> float:
    """Megabytes of memory that a process holds, or the most that it held."""
    field = "VmHWM:" if most else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def p50(samples_ms: Sequence[float]) -> float:
    return statistics.median(samples_ms)


def p99(samples_ms: Sequence[float]) -> float:
    return sorted(samples_ms)[int(len(samples_ms) * 0.99)]


def check_answered(bodies: Sequence[bytes]) -> None:
    """Every question of every reply has an answer."""
    for body in bodies:
        outcomes = wire.parse(LogprobsOutcomes, body, wire.FRAME).outcomes
        problems = [o.problem for o in outcomes if o.answer is None]
        assert not problems, problems[0]


@contextlib.asynccontextmanager
async def running_stack(
    changed: Callable[[ChildSpec], Sequence[str]] = lambda spec: spec.command,
) -> AsyncGenerator[Stack]:
    """A deployment of the mock expert; each process runs the command that `changed` returns."""
    _show_children_this_folder()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "preceptor.toml").write_text(to_toml(DEPLOYMENT))
        plan = make_plan(load_settings(folder / "preceptor.toml"), folder)
        specs = [replace(spec, command=tuple(changed(spec))) for spec in plan.specs]
        # The expert before the gateway, which then knows it from the start.
        specs.sort(key=lambda spec: ("broker", "mock", "gateway", "dispatcher").index(spec.name))
        children = [Child(spec) for spec in specs]
        try:
            for child in children:
                child.start()
                await _until_ready(child)
            settings = plan.settings
            await asyncio.sleep(1.0)
            expert = settings.experts["mock"]
            yield Stack(
                gateway=Target(
                    settings.gateway.url,
                    "/v1/logprobs",
                    settings.key_for("trainer").read_text().strip(),
                ),
                expert=Target(expert.url, "/v1/logprobs", expert.key_file.read_text().strip()),
                pids={c.spec.name: c.pid for c in children if c.pid is not None},
                broker=settings.gateway.broker,
            )
        finally:
            for child in reversed(children):
                child.terminate()
            time.sleep(0.3)
            for child in children:
                child.kill_group()


def _show_children_this_folder() -> None:
    """The mock expert is a module of it."""
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(HERE) not in path:
        os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (*path, str(HERE)) if part)


def _keeps_blobs_in_memory(spec: ChildSpec) -> Sequence[str]:
    if spec.name != "gateway":
        return spec.command
    config = spec.command[spec.command.index("--config") :]
    return (sys.executable, str(HERE / "gateway_in_memory.py"), *config)


async def _until_ready(child: Child) -> None:
    end = time.monotonic() + 180
    while not await child.spec.is_ready():
        assert child.runs(), child.ending()
        assert time.monotonic() < end, child.ending()
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def bare_server() -> AsyncGenerator[Target]:
    """The bare ASGI application on the gateway's server."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "bare_server:echo", "--port", str(port)),
            *("--loop", "uvloop", "--http", "httptools", "--no-access-log"),
            *("--log-level", "warning", "--lifespan", "off"),
        ],
        cwd=HERE,
    )
    target = Target(f"http://127.0.0.1:{port}", "/", None)
    try:
        while not await asyncio.to_thread(answers, port):
            assert process.poll() is None, "the bare server ended"
            await asyncio.sleep(0.05)
        await run(target.url, [target.request(b"x")] * 50, 1)
        yield target
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    """Whether a process listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Measurement(NamedTuple):
    """What one set of requests took."""

    seconds: float
    took_ms: list[float]
    bodies: list[bytes]
    cpu_ms: dict[str, float]
    """Milliseconds of each process per question."""


async def measured(
    stack: Stack, target: Target, bodies: Sequence[bytes], in_flight: int, per_request: int = 1
) -> Measurement:
    """Sends these bodies."""
    requests = [target.request(body) for body in bodies]
    before = cpu_s(stack.pids)
    seconds, took_ms, replies = await run(target.url, requests, in_flight)
    num_questions = len(bodies) * per_request
    spent = {
        name: (after - before[name]) * 1000 / num_questions
        for name, after in cpu_s(stack.pids).items()
    }
    return Measurement(seconds, took_ms, replies, spent)


def cpu_figures(what: str, done: Measurement) -> Figures:
    return {f"{what}: CPU ms, {name}": ms for name, ms in done.cpu_ms.items() if ms >= 0.002}


async def cache_hits(stack: Stack, bare: Target, questions: Questions, scale: int) -> Figures:
    """An answered question under a new key, beside an echo of a body of the reply's size."""
    query = questions.fresh(1)[0]
    first = await measured(stack, stack.gateway, [questions.asking([query])], 1)
    size = len(first.bodies[0])
    hits = [questions.asking([query]) for _ in range(1500 * scale)]
    await measured(stack, stack.gateway, hits[: 300 * scale], 32)
    one = await measured(stack, stack.gateway, hits[300 * scale : 700 * scale], 1)
    many = await measured(stack, stack.gateway, hits[700 * scale :], 32)
    again = await measured(stack, stack.gateway, [hits[0]] * (400 * scale), 1)
    echoed = [bare.request(bytes(size))] * (400 * scale)
    _, echo_ms, _ = await run(bare.url, echoed, 1)
    echo_s, _, _ = await run(bare.url, echoed * 2, 32)
    check_answered(one.bodies + many.bodies + again.bodies)
    return {
        "cache hit: p50 ms": p50(one.took_ms),
        "cache hit: p99 ms": p99(one.took_ms),
        "cache hit: bare echo, p50 ms": p50(echo_ms),
        "cache hit: p50 ms over the bare echo": p50(one.took_ms) - p50(echo_ms),
        "cache hit, same key again: p50 ms": p50(again.took_ms),
        "cache hit: a second, 32 in flight": len(many.bodies) / many.seconds,
        "cache hit: bare echo, a second, 32 in flight": len(echoed) * 2 / echo_s,
        **cpu_figures("cache hit, one at a time", one),
        **cpu_figures("cache hit, 32 in flight", many),
    }


async def full_path(stack: Stack, questions: Questions, scale: int) -> Figures:
    """One question a request through everything, beside the expert alone."""
    queries = questions.fresh(1200 * scale)
    bodies = [questions.asking([query]) for query in queries]
    calls = [direct([query]) for query in queries]
    await measured(stack, stack.gateway, bodies[: 150 * scale], 16)
    one = await measured(stack, stack.gateway, bodies[150 * scale : 300 * scale], 1)
    many = await measured(stack, stack.gateway, bodies[300 * scale :], 64)
    await measured(stack, stack.expert, calls[:50], 4)
    alone = await measured(stack, stack.expert, calls[: 150 * scale], 1)
    alone_many = await measured(stack, stack.expert, calls, 64)
    check_answered(one.bodies + many.bodies)
    return {
        "full path: p50 ms": p50(one.took_ms),
        "full path: p99 ms": p99(one.took_ms),
        "full path: expert alone, p50 ms": p50(alone.took_ms),
        "full path: p50 ms over the expert": p50(one.took_ms) - p50(alone.took_ms),
        "full path: questions a second, 64 in flight": len(many.bodies) / many.seconds,
        "full path: expert alone, a second, 64 in flight": len(calls) / alone_many.seconds,
        **cpu_figures("full path, one at a time", one),
        **cpu_figures("full path, 64 in flight", many),
    }


async def batches(stack: Stack, questions: Questions, scale: int) -> Figures:
    """Requests of 64 questions through everything, beside the expert alone."""
    groups = in_groups(questions.fresh(64 * 40 * scale), 64)
    bodies = [questions.asking(group) for group in groups]
    await measured(stack, stack.gateway, bodies[: 8 * scale], 4, 64)
    done = await measured(stack, stack.gateway, bodies[8 * scale :], 4, 64)
    alone = await measured(stack, stack.expert, [direct(group) for group in groups], 4, 64)
    check_answered(done.bodies)
    return {
        "batches of 64: questions a second, 4 in flight": 64 * len(done.bodies) / done.seconds,
        "batches of 64: expert alone, a second, 4 in flight": 64 * len(groups) / alone.seconds,
        **cpu_figures("batches of 64", done),
    }


async def positions(
    stack: Stack, questions: Questions, scale: int, what: str, asked: list[PrefixQuery]
) -> Figures:
    """Answers of 1,024 positions and 64 entries through queue, codec and checks."""
    queries = questions.fresh(4 * 26 * scale, **BIG)
    bodies = [questions.asking(group) for group in in_groups(queries, 4)]
    await measured(stack, stack.gateway, bodies[: 6 * scale], 4, 4)
    done = await measured(stack, stack.gateway, bodies[6 * scale :], 4, 4)
    alone = await measured(
        stack, stack.expert, [direct(g) for g in in_groups(queries[: 24 * scale], 4)], 4, 4
    )
    check_answered(done.bodies)
    asked += queries
    return {
        f"{what}: top-64 positions a second": 4 * 1024 * len(done.bodies) / done.seconds,
        f"{what}: expert alone, positions a second": 4 * 1024 * len(alone.bodies) / alone.seconds,
        **cpu_figures(what, done),
    }


async def stored_answers(
    stack: Stack, bare: Target, questions: Questions, scale: int, asked: Sequence[PrefixQuery]
) -> Figures:
    """Answers of 1,024 x 64 that were stored before, beside a bare reply of as many bytes."""
    bodies = [questions.asking([query]) for query in asked]
    done = await measured(stack, stack.gateway, bodies, 8)
    size = len(done.bodies[0])
    copies = [bare._replace(path=f"/{size}").request(b"x")] * (100 * scale)
    await run(bare.url, copies[:20], 8)
    copied_s, _, _ = await run(bare.url, copies, 8)
    check_answered(done.bodies)
    return {
        "stored 1,024 x 64: answers a second, 8 in flight": len(bodies) / done.seconds,
        "stored 1,024 x 64: bare reply, a second, 8 in flight": len(copies) / copied_s,
        **cpu_figures("stored 1,024 x 64", done),
    }


async def through_the_client(stack: Stack, questions: Questions, scale: int) -> Figures:
    """One question at a time by the project's own client, as a trainer asks."""
    took_ms: list[float] = []
    async with GatewayClient(stack.gateway.url, stack.gateway.key) as gateway:
        for number, query in enumerate(questions.fresh(100 * scale)):
            submission = PrefixSubmission(idempotency_key=f"client-{number}", query=query)
            began = time.perf_counter()
            outcomes = await gateway.logprobs("mock", [submission], timeout_s=60)
            took_ms.append((time.perf_counter() - began) * 1000)
            assert outcomes[0].answer is not None
    return {"full path by the project's client: p50 ms": p50(took_ms[20:])}


def rendering() -> Figures:
    """Milliseconds to render one answer of 1,024 positions and 64 entries, and to read it."""
    message = LogprobsReply(results=(PrefixResult(answer=mock_answer(make_query(0, **BIG))),))
    figures: Figures = {}
    for name, media_type in (("frame", wire.FRAME), ("JSON", wire.JSON)):
        body = wire.render(message, media_type)
        figures[f"rendering 1,024 x 64 as {name}: ms"] = best_ms(wire.render, message, media_type)
        figures[f"reading 1,024 x 64 from {name}: ms"] = best_ms(
            wire.parse, LogprobsReply, body, media_type
        )
    return figures


def best_ms(work: Callable[..., object], *args: object) -> float:
    """CPU of the fastest of seven runs, since nothing but the machine makes one slower."""
    times: list[float] = []
    for _ in range(7):
        began = time.thread_time()
        work(*args)
        times.append(time.thread_time() - began)
    return 1000 * min(times)


async def measure(scale: int, only: str | None) -> Figures:
    """One round of all figures whose part is named; `scale` multiplies the questions."""
    figures: Figures = {}
    async with bare_server() as bare:
        async with running_stack() as stack:
            questions = Questions()
            asked: list[PrefixQuery] = []
            parts: dict[str, Callable[[], Awaitable[Figures]]] = {
                "cache": lambda: cache_hits(stack, bare, questions, scale),
                "full": lambda: full_path(stack, questions, scale),
                "client": lambda: through_the_client(stack, questions, scale),
                "batches": lambda: batches(stack, questions, scale),
                "positions": lambda: positions(stack, questions, scale, "1,024 x 64", asked),
                "stored": lambda: stored_answers(stack, bare, questions, scale, asked),
            }
            for name, part in parts.items():
                if _wanted(name, only) or (name == "positions" and _wanted("stored", only)):
                    figures |= await part()
            for name in ("gateway", "dispatcher"):
                figures[f"RSS MB after all, {name}"] = rss_mb(stack.pids[name])
                figures[f"RSS MB at most, {name}"] = rss_mb(stack.pids[name], most=True)
        if _wanted("unwritten", only):
            async with running_stack(_keeps_blobs_in_memory) as stack:
                what = "1,024 x 64, blobs not written"
                figures |= await positions(stack, Questions(), scale, what, [])
    return figures | (rendering() if _wanted("rendering", only) else {})


def _wanted(name: str, only: str | None) -> bool:
    return only is None or name in only.split(",")


def run_once(checkout: Path, scale: int, only: str | None) -> Figures:
    """The figures of a checkout, in processes of its own."""
    here = Path(__file__).resolve()
    folders = (checkout / "clients", checkout / "services", checkout / "trainer", here.parent)
    parts = [] if only is None else ["--only", only]
    done = subprocess.run(
        [sys.executable, str(here), "--once", "--scale", str(scale), *parts],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(f.resolve()) for f in folders)},
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def medians(rounds: Sequence[Figures]) -> Figures:
    """Of each figure."""
    names = [name for name in rounds[0] if all(name in one for one in rounds)]
    return {name: float(f"{statistics.median(one[name] for one in rounds):.4g}") for name in names}


GOALS = {
    "cache hit: p50 ms over the bare echo": ("at most", 1.0),
    "cache hit: a second, 32 in flight": ("at least", 1500),
    "full path: p50 ms over the expert": ("at most", 5.0),
    "full path: questions a second, 64 in flight": ("at least", 400),
    "batches of 64: questions a second, 4 in flight": ("at least", 2500),
    "stored 1,024 x 64: answers a second, 8 in flight": ("at least", 900),
    "1,024 x 64: top-64 positions a second": ("at least", 700_000),
    "1,024 x 64, blobs not written: top-64 positions a second": ("at least", 700_000),
    "RSS MB at most, gateway": ("at most", 200),
    "RSS MB at most, dispatcher": ("at most", 200),
}


def table(result: Mapping[str, Any]) -> str:
    """The figures as text, with the goals that they have."""
    before = result.get("before", {})
    width = max(len(name) for name in result["figures"])
    lines = [f"{'':{width}} {'before' if before else '':>11} {'now':>11}  goal"]
    for name, value in result["figures"].items():
        bound, goal = GOALS.get(name, ("", None))
        met = goal is not None and (value <= goal if bound == "at most" else value >= goal)
        told = "" if goal is None else f"{bound} {goal:,g}: {'met' if met else 'NOT MET'}"
        old = f"{before[name]:,}" if name in before else ""
        lines.append(f"{name:{width}} {old:>11} {value:>11,}  {told}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(models)) or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "nice": os.nice(0),
        "load before": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measures, prints and, where asked, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=2, help="multiplies the number of questions")
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many runs is told")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    parser.add_argument(
        "--only",
        help="parts, with commas: cache,full,client,batches,positions,stored,unwritten,rendering",
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(uvloop.run(measure(arguments.scale, arguments.only))))
        return
    result: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds}
    checkouts = {"figures": Path(__file__).parents[1]}
    if arguments.against is not None:
        checkouts = {"before": arguments.against, **checkouts}
    runs: dict[str, list[Figures]] = {name: [] for name in checkouts}
    for _ in range(arguments.rounds):
        for name, checkout in checkouts.items():
            runs[name].append(run_once(checkout, arguments.scale, arguments.only))
    result |= {name: medians(figures) for name, figures in runs.items()}
    print(table(result))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
