"""A run of eight steps survives dependencies that answer with an error for a while."""

from __future__ import annotations

import sqlite3
import time
import tomllib
from collections.abc import Callable
from contextlib import closing

import pytest
from redis import Redis

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.run.watching.metrics_log import METRICS_FILE

from .conftest import Running

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
AWAY_S = 1.5
STEPS = 8


def wait_for_steps(running: Running, count: int, trainer) -> None:
    path, deadline = running.run_dir / METRICS_FILE, time.monotonic() + 240
    while not path.exists() or path.read_text().count("\n") < count:
        assert trainer.poll() is None, running.trainer_log()
        assert time.monotonic() < deadline, running.trainer_log()
        time.sleep(0.01)


def broker(running: Running) -> Redis:
    settings = tomllib.loads((running.home / "resolved.toml").read_text())
    return Redis.from_url(settings["gateway"]["broker"])


def fill_memory(running: Running) -> None:
    with broker(running) as redis:
        redis.config_set("maxmemory", "1")
        time.sleep(AWAY_S)
        redis.config_set("maxmemory", "0")


def take_replicas(running: Running) -> None:
    with broker(running) as redis:
        redis.config_set("min-replicas-to-write", "1")
        time.sleep(AWAY_S)
        redis.config_set("min-replicas-to-write", "0")


def lock_database(running: Running) -> None:
    path = running.home / "preceptor.db"
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        time.sleep(AWAY_S)
        conn.execute("ROLLBACK")


FAULTS: tuple[Callable[[Running], None], ...] = (fill_memory, take_replicas, lock_database)


async def test_eight_steps_survive_each_fault_while_it_lasts(other: Running) -> None:
    trainer = other.start_trainer(steps=STEPS)
    for number, fault in enumerate(FAULTS, start=1):
        wait_for_steps(other, 2 * number, trainer)
        fault(other)

    assert trainer.wait(timeout=300) == 0, other.trainer_log()
    async with GatewayClient(other.deployment.gateway_url, other.deployment.key) as client:
        accounting = await client.accounting(other.run_dir.name)
    assert (accounting.steps, accounting.superseded_steps) == (STEPS, 0)
    assert accounting.consumed == STEPS * 3 * 4
    assert accounting.consumed_twice == 0
