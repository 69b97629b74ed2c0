"""The kernel's limits on a whole sandbox, where this machine lets groups be made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preceptor_services.sandbox.cgroups import Group

WAITS = "import sys; sys.stdin.readline(); "
TAKES = WAITS + "x = bytearray(200 << 20)"
FORKS = (
    WAITS
    + """
import os, time
for n in range(20):
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        break
print(n, flush=True)
os.killpg(0, 9)
"""
)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-c", "exec(input())"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True) as started:
        yield started
        started.kill()


@pytest.fixture
def group(process: subprocess.Popen[bytes]) -> Iterator[Group]:
    made = Group.around(process.pid, slot=0)
    if made is None:
        pytest.skip("no control group can be made here")
    yield made
    process.kill()
    process.wait()
    made.remove()


def tell(process: subprocess.Popen[bytes], program: str) -> bytes:
    return process.communicate(f"exec({program!r})\n\n".encode())[0]


def test_the_kernel_ends_what_takes_more_than_the_limit_and_says_so(
    process: subprocess.Popen[bytes], group: Group
) -> None:
    group.limit(memory_bytes=64 << 20, tasks=4)
    before = group.num_killed()

    tell(process, TAKES)

    assert process.returncode == -9
    assert group.num_killed() == before + 1
    peak = group.peak_bytes()
    assert peak is None or 64 << 20 <= peak < 128 << 20


def test_tasks_are_limited_together(process: subprocess.Popen[bytes], group: Group) -> None:
    group.limit(memory_bytes=512 << 20, tasks=4)

    assert tell(process, FORKS) == b"4\n"


def test_a_group_of_a_service_that_was_killed_is_removed_by_the_next(
    process: subprocess.Popen[bytes], group: Group
) -> None:
    abandoned = group._memory.parent / "preceptor-999999999-0-1"
    abandoned.mkdir(exist_ok=True)

    another = Group.around(process.pid, slot=1)

    assert another is not None
    assert not abandoned.exists()
    tell(process, "pass")
    process.wait()
    another.remove()
    assert not another._memory.exists()


def test_where_no_group_can_be_made_there_is_none(tmp_path: Path) -> None:
    assert Group.around(1, slot=0, root=tmp_path) is None


def test_where_groups_cannot_be_looked_at_there_is_none(tmp_path: Path) -> None:
    # Every look at it is an error, as in a folder that the service may not enter.
    assert Group.around(1, slot=0, root=tmp_path / ("x" * 300)) is None


def test_the_second_version_is_limited_by_its_own_files(tmp_path: Path) -> None:
    class Made(Group):
        def _begin(self, pid: int) -> None:
            (self._memory / "memory.events").write_text("low 0\noom_kill 3\n")

    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")

    made = Made.around(1, slot=2, root=tmp_path)

    assert made is not None
    made.limit(memory_bytes=100 << 20, tasks=7)
    [folder] = tmp_path.glob("preceptor-*")
    assert (folder / "memory.max").read_text() == str(116 << 20)
    assert (folder / "pids.max").read_text() == "7"
    assert (made.version, made.num_killed(), made.peak_bytes()) == (2, 3, None)
