"""A worker process that the queue's tests kill: takes jobs, writes each to a file, acknowledges.

python queue_worker.py BROKER_URL SERVICE NAME OUT_FILE SECONDS_A_JOB
"""

from __future__ import annotations

import asyncio
import os
import sys

from preceptor_services.jobs.streams import JobStreams


async def main(url: str, service: str, name: str, out: str, seconds: float) -> None:
    queue = JobStreams.connect(url)
    fd = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        jobs = await queue.reclaim(service, name, min_idle_s=0.4, count=8)
        jobs += await queue.take(service, name, count=8, block_s=0.1)
        for job in jobs:
            await asyncio.sleep(seconds)
            os.write(fd, f"{job.job_id}\n".encode())
            await queue.done([job])


asyncio.run(main(*sys.argv[1:5], float(sys.argv[5])))
