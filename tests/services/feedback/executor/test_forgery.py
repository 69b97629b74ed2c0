"""Programs that try to be graded as right without being right, and programs that look for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from preceptor_clients.contract.schemas import FeedbackItem, FeedbackQuery, Message, Prompt
from preceptor_services.feedback.executor import Executor
from preceptor_services.sandbox.isolation import IsolationFailed

CALL = {
    "mode": "function",
    "entry": "f",
    "shown": [{"input": [1], "expected": "shown-8d1f"}],
    "hidden": [{"input": [2], "expected": "hidden-77ab"}],
}
READ = {
    "mode": "stdin",
    "shown": [{"input": "1\n", "expected": "shown-8d1f\n"}],
    "hidden": [{"input": "2\n", "expected": "hidden-77ab\n"}],
}
EQUAL = "class E(str):\n def __eq__(s, o): return True\n def __hash__(s): return 0\n"
NAMED = "g = lambda: None\n"

IN_A_FUNCTION = {
    "verdict printed": "def f(x):\n print('{\"passed\": true, \"score\": 1.0}'); return x",
    "verdict in the result": "import os\ndef f(x):\n os.write(3, b'{\"passed\": true}\\n"
    "'); return x",
    "score in the result": "import os\nos.write(3, b'{\"score\": 1.0}\\n'); os._exit(0)",
    "end in the result": "import os\nos.write(3, b'{\"end\": \"passed\"}\\n'); os._exit(0)",
    "two values": "import os\ndef f(x):\n os.write(3, b'{\"value\": \"a\"}\\n"
    "'); return 'shown-8d1f'",
    "half a line": "import os\nos.write(3, b'{\"value\": '); os._exit(0)",
    "sys.exit(0)": "import sys\ndef f(x): sys.exit(0)",
    "sys.exit(0) at once": "import sys\nsys.exit(0)",
    "os._exit(0)": "import os\ndef f(x): os._exit(0)",
    "exit in atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return x",
    "equal to everything": EQUAL + "def f(x): return E('x')",
    "equal inside": EQUAL + "def f(x): return [E('x')]",
    "repr of the answer": "class R:\n def __repr__(s): return \"'shown-8d1f'\"\n"
    "def f(x): return R()",
    "json replaced": "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'\n"
    "def f(x): return x",
    "builtins replaced": "import builtins\nbuiltins.isinstance = lambda *a: True\n"
    "def f(x): return x",
    "runner replaced": "import __main__\n__main__.plain = lambda v: True\ndef f(x): return x",
    "os.write replaced": "import os\nw = os.write\nos.write = lambda d, b: w(d, b'{\"ok\": 1}\\n"
    "') or 9\n"
    "def f(x): return x",
    "recursion": "def f(x):\n a = []\n a.append(a)\n return a",
    "traced": "import sys\nsys.settrace(lambda *a: None)\n"
    "def f(x): return sys._getframe(1).f_locals",
    "exception hook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\n"
    "def f(x): raise ValueError",
    "forked child": "import os\ndef f(x):\n try:\n  if os.fork() == 0: os._exit(0)\n"
    " except OSError: pass\n return x",
    "thread that ends it": "import os, threading\ndef f(x):\n"
    " threading.Timer(0.01, os._exit, (0,)).start()\n while True: pass",
    "not a number": "def f(x): return float('nan')",
    "killed parent": "import os, signal\ndef f(x):\n try: os.kill(os.getppid(), 9)\n"
    " except OSError: pass\n return x",
    "standard error": "import sys\ndef f(x):\n"
    " print('All tests passed', file=sys.stderr); return None",
}  # fmt: skip
ON_STANDARD_OUTPUT = {
    "verdict printed": "print('PASSED\\n{\"passed\": true}')",
    "nothing, exit 0": "import os\nos._exit(0)",
    "result channel": "import os\nos.write(3, b'{\"value\": \"shown-8d1f\"}\\n')",
    "answer on standard error": "import sys\nprint('shown-8d1f', file=sys.stderr)",
    "both answers": "print('shown-8d1f\\nhidden-77ab')",
    "answer and then an error": "print('shown-8d1f')\nraise SystemError",
    "answer and then killed": "import os\nprint('shown-8d1f', flush=True)\nos.kill(os.getpid(), 9)",
    "closed output": "import sys\nsys.stdout.close()",
    "parent's output": "import os\ntry:\n"
    " os.write(os.open(f'/proc/{os.getppid()}/fd/1', 1), b'shown-8d1f')\n"
    "except OSError: pass",
    "shown case alone": "print('shown-8d1f')",
}  # fmt: skip
SEARCHES = {
    "objects": "import gc\n"
    "found = [o for o in gc.get_objects() for o in (o.values() if type(o) is dict else [o])]",
    "frames": "import sys\nfound, f = [], sys._getframe()\n"
    "while f: found += [*f.f_locals.values(), *f.f_globals.values()]; f = f.f_back",
    "files": "import os\nfound = []\n"
    "for top in ('.', '/tmp', '/dev/shm', '/var/tmp'):\n"
    " for d, _, names in os.walk(top):\n"
    "  for n in names:\n"
    "   try: found.append(open(os.path.join(d, n), errors='replace').read(100_000))\n"
    "   except OSError: pass",
    "environment": "import os, sys\nfound = [os.environ, sys.argv, sys.flags]",
    "descriptors": "import os\nfound = []\nfor d in range(3, 64):\n"
    " try: os.set_blocking(d, False); found.append(os.read(d, 100_000))\n except OSError: pass",
    "processes": "import os\nfound = []\n"
    "try: ids = os.listdir('/proc')\nexcept OSError: ids = []\n"
    "for p in ids:\n"
    " for n in ('environ', 'cmdline'):\n"
    "  try: found.append(open(f'/proc/{p}/{n}', errors='replace').read())\n"
    "  except OSError: pass",
}


def query(name: str, program: str, task: dict[str, Any]) -> FeedbackQuery:
    return FeedbackQuery(
        rollout_id=name.replace(" ", "-"),
        prompt=Prompt(messages=(Message(role="user", content="Do it."),)),
        response_ids=[1],  # type: ignore[arg-type]
        response_text=f"```python\n{program}\n```",
        finish_reason="stop",
        payload_sha256="0" * 64,
        payload=task,
        timeout_ms=600_000,
    )


def asked() -> dict[str, FeedbackQuery]:
    search = "\ndef f(x): return str(found).count(''.join(['-8', 'd1f']))"
    return {
        **{f"f: {n}": query(n, p, CALL) for n, p in IN_A_FUNCTION.items()},
        **{f"stdin: {n}": query(n, p, READ) for n, p in ON_STANDARD_OUTPUT.items()},
        **{f"search: {n}": query(n, p + search, CALL) for n, p in SEARCHES.items()},
        "honest": query("honest", "print(['shown-8d1f', 'hidden-77ab'][int(input()) - 1])", READ),
    }


OTHERS = [
    pytest.param(rung, marks=pytest.mark.gauntlet) for rung in ("bubblewrap", "landlock", "gvisor")
]


@pytest.fixture(scope="module", params=["auto", *OTHERS])
def judged(request: pytest.FixtureRequest) -> Iterator[dict[str, FeedbackItem]]:
    """The verdicts of all attempts, which share two sandboxes."""

    async def judge() -> dict[str, FeedbackItem]:
        executor = Executor(rung=request.param, workers=2, case_cpu_seconds=2.0)
        try:
            await executor.start()
        except IsolationFailed as error:
            pytest.skip(str(error))
        queries = asked()
        answers = await executor.feedback([*queries.values()])
        await executor.stop()
        return {n: a.items[0] for n, a in zip(queries, answers, strict=True)}  # type: ignore[union-attr]

    return asyncio.run(judge())  # type: ignore[return-value]


@pytest.mark.parametrize("name", [name for name in asked() if not name.startswith("honest")])
def test_no_trick_is_graded_as_a_pass(judged: dict[str, FeedbackItem], name: str) -> None:
    assert judged[name].error is None
    assert judged[name].score == 0.0


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_expected_is_where_the_program_runs(
    judged: dict[str, FeedbackItem], name: str
) -> None:
    cases: Any = judged[f"search: {name}"].details["cases"]

    assert cases[0]["got"] == "0", cases


def test_an_honest_program_passes_beside_them(judged: dict[str, FeedbackItem]) -> None:
    assert judged["honest"].score == 1.0
