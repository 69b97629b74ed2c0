"""What gateway and dispatcher run on."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BODIES = """
import resource
from preceptor_services.kit.event_loop import run_process

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

async def main():
    chunks = [bytes(1 << 20)] * 4
    for _ in range(3):
        bodies = [b"".join(chunks) for _ in range(4)]
        del bodies
    before = faults()
    for _ in range(20):
        bodies = [b"".join(chunks) for _ in range(4)]
        del bodies
    print(faults() - before)

run_process(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_the_memory_of_a_body_serves_the_next_one():
    done = subprocess.run([sys.executable, "-c", _BODIES], check=True, stdout=subprocess.PIPE)

    # The system would clear 4,096 pages for each round of bodies.
    assert int(done.stdout) < 2 * 4096
