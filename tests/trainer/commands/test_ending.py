"""A command that gets SIGTERM ends in order, or after its grace."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, time
from preceptor_trainer.commands.ending import ends_when_asked
from preceptor_trainer.deployment.failures import TERMINATED, Terminated

async def waits():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(600)

async def is_busy():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.to_thread(time.sleep, 600)

async def main(work):
    with ends_when_asked(grace_s=1.0):
        await work()

try:
    asyncio.run(main({work}))
except Terminated:
    print("in order")
    raise SystemExit(TERMINATED)
"""


@pytest.mark.parametrize(("work", "said"), [("waits", "in order\n"), ("is_busy", "")])
def test_a_run_ends_in_order_and_after_its_grace_where_a_thread_is_busy(
    work: str, said: str
) -> None:
    command = [sys.executable, "-c", PROGRAM.replace("{work}", work)]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert ended.returncode == 143, ended.stderr
    assert ended.stdout == said
