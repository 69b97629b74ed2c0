"""Transport of jobs from the gateway to the dispatchers over Redis or Valkey streams.

The only module that uses Redis. Each service has one stream for urgent jobs and one for the others,
read by one consumer group from the beginning. An entry stays pending with the dispatcher that took
it until it is acknowledged; another dispatcher may reclaim an entry that is idle for too long. So a
job is delivered at least once, and the gateway's fence makes a second delivery harmless.

Only commands of Redis 6.2 are used, so that Redis 7 and Valkey 8 and 9 work as well; XACK and XDEL
go in one MULTI. The broker is a transport: an entry holds a job's id and size, never its questions,
and a group that FLUSHALL removed is created again. Left out: delayed delivery; results; trimming
(a full stream refuses new jobs, because a trimmed one would lose old ones); a dead-letter stream
(SQL holds the jobs that were given up and the reasons, independently of the broker).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as BrokerConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as BrokerTimeoutError

from preceptor_clients.contract.errors import QueueFull, ServiceUnavailable

GROUP: Final = "dispatchers"
MAX_BLOCK_S: Final = 5.0
"""Longest wait inside the broker."""
_SOCKET_TIMEOUT_S: Final = MAX_BLOCK_S + 5.0
"""Longer than any block: redis-py would end a blocking read after 5 s by itself."""
_LOOK_S: Final = 2.0
"""Longest wait of who only looks: one who asks how things are must hear of a broker that hangs."""
_CONNECTIONS: Final = 128
"""Most connections of one process. Each service of a dispatcher holds one while it waits."""
_DOWN_S: Final = 0.5
"""For so long after a failure further calls are refused at once."""
_URGENT_BELOW: Final = 5
"""Priorities 0 to 4 are urgent, 5 to 9 are not."""
_CANCELS: Final = "preceptor:cancels"
_SETTLED: Final = "preceptor:settled"

# Length check and append must be atomic, or concurrent callers exceed the limit; MULTI has no "if".
_PUT: Final = """
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local taken = 0
for i = 2, #ARGV, 3 do
  if taken >= room then break end
  redis.call('XADD', KEYS[1], '*', 'job', ARGV[i], 'tokens', ARGV[i + 1], 'exclusive', ARGV[i + 2])
  taken = taken + 1
end
return taken
"""

_Read = tuple[str, dict[str, str]]


class Entry(NamedTuple):
    """One job to be put."""

    job_id: str
    priority: int
    tokens: int
    exclusive: bool


@dataclass(frozen=True)
class Delivery:
    """One job that was delivered to one dispatcher."""

    stream: str
    entry_id: str
    job_id: str
    tokens: int
    exclusive: bool
    deliveries: int
    """Count of its deliveries, including this one."""


class JobStreams:
    """The streams of all services on one broker."""

    def __init__(self, redis: Any, *, max_length: int) -> None:
        # redis-py's annotations are partial, so its replies are Any and are parsed at once.
        self._redis = redis
        self._max_length = max_length
        self._put_script = redis.register_script(_PUT)
        self._putting = asyncio.Lock()
        self._down_until = 0.0
        self._cursors: dict[str, str] = {}

    @classmethod
    def connect(cls, url: str, *, max_length: int = 10_000) -> JobStreams:
        """A queue on the broker at `url`; nothing is sent yet.

        Args:
            url: URL of Redis 6.2 or later, or of Valkey.
            max_length: Limit of entries, waiting and in work, of a stream.
        """
        backoff = ExponentialWithJitterBackoff(base=0.05, cap=0.5)
        pools: Any = BlockingConnectionPool
        # A burst of commands waits for a connection; the default pool would fail those beyond it.
        pool = pools.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_SOCKET_TIMEOUT_S,
            protocol=2,
            decode_responses=True,
            socket_timeout=_SOCKET_TIMEOUT_S,
            socket_connect_timeout=2.0,
            retry=Retry(backoff, retries=5, supported_errors=(BrokerConnectionError,)),
        )
        return cls(Redis.from_pool(pool), max_length=max_length)

    async def put(
        self, service: str, job_id: str, *, priority: int, tokens: int, exclusive: bool
    ) -> None:
        """Appends a job; calls of one process are appended in the order of the calls.

        Raises:
            QueueFull: the stream has `max_length` entries.
            ServiceUnavailable: the broker is down or refuses. The job may be on the stream.
        """
        if not await self.put_all(service, [Entry(job_id, priority, tokens, exclusive)]):
            raise QueueFull(f"{service} has {self._max_length} jobs waiting", retry_after_s=1.0)

    async def put_all(self, service: str, entries: Sequence[Entry]) -> int:
        """Appends jobs in order; returns how many of them, the first ones, fitted.

        Raises:
            ServiceUnavailable: the broker is down or refuses. Some jobs may be on the stream.
        """
        taken = 0
        async with self._putting:
            for urgent, group in groupby(entries, lambda entry: entry.priority < _URGENT_BELOW):
                together = list(group)
                had_room = await self._append(_stream(service, urgent=urgent), together)
                taken += had_room
                if had_room < len(together):
                    break
        return taken

    async def _append(self, stream: str, entries: Sequence[Entry]) -> int:
        words = [word for e in entries for word in (e.job_id, e.tokens, int(e.exclusive))]
        clock = asyncio.get_running_loop().time
        if clock() < self._down_until:
            # Callers wait for one lock, so the timeouts of their attempts would add up.
            raise ServiceUnavailable("the broker did not answer just now", retry_after_s=1)
        try:
            async with _broker_errors():
                return int(await self._put_script(keys=[stream], args=[self._max_length, *words]))
        except ServiceUnavailable:
            self._down_until = clock() + _DOWN_S
            raise

    async def take(
        self, service: str, consumer: str, *, count: int, block_s: float
    ) -> list[Delivery]:
        """New jobs, urgent ones first: at most `count` of either class.

        Waits up to `block_s` (at most `MAX_BLOCK_S`) for the first one; 0 does not wait.
        """
        if not 0 <= block_s <= MAX_BLOCK_S:
            raise ValueError(f"block_s: {block_s} is not in [0, {MAX_BLOCK_S}]")
        streams = _streams(service)
        command = ("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count)
        # The server checks blocked clients ten times a second, so a short block takes up to 0.1 s.
        waiting = ("BLOCK", max(1, int(block_s * 1000))) if block_s else ()
        replies = await self._in_group(
            service,
            lambda: self._command(*command, *waiting, "STREAMS", *streams, ">", ">"),
        )
        found: dict[str, list[_Read]] = dict(replies or [])
        return [
            _delivery(stream, entry, 1)
            for stream in streams
            for entry in found.get(stream, [])
            if entry[1]
        ]

    async def reclaim(
        self, service: str, consumer: str, *, min_idle_s: float, count: int
    ) -> list[Delivery]:
        """Jobs that their dispatchers have not renewed for `min_idle_s`: at most `count`.

        Each call scans the next part of the pending entries.
        """
        claimed: list[Delivery] = []
        for stream in _streams(service):
            if len(claimed) < count:
                claimed += await self._reclaim(
                    service, stream, consumer, int(min_idle_s * 1000), count - len(claimed)
                )
        return claimed

    async def _reclaim(
        self, service: str, stream: str, consumer: str, min_idle_ms: int, count: int
    ) -> list[Delivery]:
        cursor = self._cursors.get(stream, "0-0")
        command = ("XAUTOCLAIM", stream, GROUP, consumer, min_idle_ms, cursor, "COUNT", count)
        reply = await self._in_group(service, lambda: self._command(*command))
        self._cursors[stream] = reply[0]
        # A pending entry without fields was deleted; only servers before 7.0 return it.
        entries = [entry for entry in reply[1] if entry is not None and entry[1]]
        if not entries:
            return []
        async with _broker_errors(), self._redis.pipeline(transaction=False) as pipe:
            for entry_id, _ in entries:
                pipe.xpending_range(stream, GROUP, entry_id, entry_id, 1)
            pending: list[list[dict[str, Any]]] = await pipe.execute()
        counts = [int(one[0]["times_delivered"]) if one else 1 for one in pending]
        return [_delivery(stream, e, n) for e, n in zip(entries, counts, strict=True)]

    async def renew(self, consumer: str, deliveries: Iterable[Delivery]) -> None:
        """Keeps jobs in work from being reclaimed: their idle time starts again."""
        async with _broker_errors(), self._redis.pipeline(transaction=False) as pipe:
            for stream, ids in _by_stream(deliveries).items():
                pipe.execute_command("XCLAIM", stream, GROUP, consumer, 0, *ids, "JUSTID")
            # After FLUSHALL there is nothing to renew; the gateway puts such jobs again.
            await pipe.execute(raise_on_error=False)

    async def done(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledges and deletes jobs; jobs that no longer exist are ignored."""
        ids = _by_stream(deliveries)
        if not ids:
            return
        async with _broker_errors(), self._redis.pipeline(transaction=True) as pipe:
            for stream, entry_ids in ids.items():
                pipe.execute_command("XACK", stream, GROUP, *entry_ids)
                pipe.execute_command("XDEL", stream, *entry_ids)
            await pipe.execute()

    async def depth(self, service: str) -> int:
        """Jobs on the streams of a service, waiting and in work."""
        async with _broker_errors(), asyncio.timeout(_LOOK_S):
            lengths = [await self._command("XLEN", stream) for stream in _streams(service)]
        return sum(lengths)

    async def announce_cancel(self, job_ids: Iterable[str]) -> None:
        """Tells every dispatcher that these jobs are cancelled; delivery is not guaranteed."""
        await self._announce(_CANCELS, job_ids)

    def cancels(self) -> AsyncIterator[str]:
        """Ids of cancelled jobs as they are announced."""
        return self._announced(_CANCELS)

    async def announce_settled(self, ticket_ids: Iterable[str]) -> None:
        """Tells every gateway process that these tickets are settled; may be lost."""
        await self._announce(_SETTLED, ticket_ids)

    def settled(self) -> AsyncIterator[str]:
        """Ids of settled tickets as they are announced, by this process too."""
        return self._announced(_SETTLED)

    async def _announce(self, channel: str, ids: Iterable[str]) -> None:
        async with _broker_errors():
            await self._command("PUBLISH", channel, "\n".join(ids))

    async def _announced(self, channel: str) -> AsyncIterator[str]:
        """Announced ids; reconnects after a lost connection."""
        while True:
            pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
            try:
                await pubsub.subscribe(channel)
                while True:
                    message = await pubsub.get_message(timeout=MAX_BLOCK_S)
                    for one in str(message["data"]).split("\n") if message else []:
                        yield one
            except RedisError:
                await asyncio.sleep(0.5)
            finally:
                with contextlib.suppress(RedisError):
                    await pubsub.aclose()

    async def server_settings(self) -> dict[str, str]:
        """The broker's version, and the settings on which keeping jobs depends.

        A setting is missing where the broker does not tell it, as some hosted ones do not.

        Raises:
            ServiceUnavailable: the broker does not answer.
        """
        async with _broker_errors():
            told = {"version": str((await self._redis.info("server"))["redis_version"])}
        for name in ("maxmemory-policy", "appendonly"):
            with contextlib.suppress(ServiceUnavailable):
                async with _broker_errors():
                    told |= await self._redis.config_get(name)
        return told

    async def ping(self) -> bool:
        """Whether the broker answers."""
        try:
            async with _broker_errors(), asyncio.timeout(_LOOK_S):
                return bool(await self._command("PING"))
        except ServiceUnavailable:
            return False

    async def aclose(self) -> None:
        await self._redis.aclose()

    async def _command(self, *words: Any) -> Any:
        return await self._redis.execute_command(*words)

    async def _in_group(self, service: str, command: Callable[[], Awaitable[Any]]) -> Any:
        """Runs a command of the group; creates streams and group if the broker lacks them."""
        async with _broker_errors():
            try:
                return await command()
            except ResponseError as error:
                # UNBLOCKED: the stream was deleted during a blocking read.
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
            for stream in _streams(service):
                try:
                    await self._command("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
                except ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):  # another client created it
                        raise
            return await command()


@contextlib.asynccontextmanager
async def _broker_errors() -> AsyncGenerator[None]:
    try:
        yield
    except TimeoutError as error:
        said = f"the broker does not answer within {_LOOK_S:.0f} s"
        raise ServiceUnavailable(said, retry_after_s=1) from error
    except (BrokerConnectionError, BrokerTimeoutError) as error:
        raise ServiceUnavailable(f"the broker does not answer: {error}", retry_after_s=1) from error
    except RedisError as error:
        # Read-only, out of memory, without replicas: it answers but cannot run the command.
        raise ServiceUnavailable(f"the broker refuses: {error}", retry_after_s=1) from error


def _stream(service: str, *, urgent: bool) -> str:
    # The braces keep the streams of one service on one node of a cluster.
    return f"preceptor:jobs:{{{service}}}:{'urgent' if urgent else 'normal'}"


def _streams(service: str) -> tuple[str, str]:
    return _stream(service, urgent=True), _stream(service, urgent=False)


def _delivery(stream: str, entry: _Read, deliveries: int) -> Delivery:
    entry_id, fields = entry
    return Delivery(
        stream=stream,
        entry_id=entry_id,
        job_id=fields["job"],
        tokens=int(fields["tokens"]),
        exclusive=fields["exclusive"] == "1",
        deliveries=deliveries,
    )


def _by_stream(deliveries: Iterable[Delivery]) -> dict[str, list[str]]:
    ordered = sorted(deliveries, key=lambda delivery: delivery.stream)
    return {
        stream: [delivery.entry_id for delivery in group]
        for stream, group in groupby(ordered, key=lambda delivery: delivery.stream)
    }
