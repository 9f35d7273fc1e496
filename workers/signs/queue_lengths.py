"""How much waits where in Redis, and how full it is. Asks only, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any

from redis import Redis

from workers.errors import WorkerError
from workers.result_stream import DEAD_LETTERS, STREAM
from workers.servers import redis_errors_translated
from workers.signs.metrics import REDIS_MEMORY, WAITING

# Spelt here, since importing `celery_app` would cost every look half a second; a test compares both
_BATCHES = "embed"
_PRIORITIES = 10  # Kombu keeps one list for each: the name, then name, separator and number
_SEPARATOR = "\x06\x16"
_SEARCHES = {priority: f"vs:search:{priority}" for priority in ("high", "normal", "low")}  # the query service's
_DEAD_SEARCHES = "vs:search:dead"
_LOOK_SECONDS = 1.0  # how old a length may be


@dataclass(frozen=True)
class QueueLengths:
    """Entries that wait. `results` are finished batches to be committed; `searches` are told by priority."""

    batches: int
    results: int
    dead_letters: int
    searches: Mapping[str, int]
    dead_searches: int

    def waiting_for(self, role: str) -> int:
        """How much of it this role is to take up; 0 for roles that take their work from elsewhere."""
        work = {"embed": self.batches, "aggregator": self.results, "query_worker": sum(self.searches.values())}
        return work.get(role, 0)

    def as_json(self) -> dict[str, Any]:
        """For `status --json`."""
        return asdict(self)


def queue_lengths(client: Redis) -> QueueLengths:
    """Ask for all of them in one round trip. Raises RedisUnavailable, RedisUnusable."""
    names = [_BATCHES, *(f"{_BATCHES}{_SEPARATOR}{number}" for number in range(1, _PRIORITIES))]
    with redis_errors_translated(), client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.llen(name)
        for name in (STREAM, DEAD_LETTERS, _DEAD_SEARCHES, *_SEARCHES.values()):
            pipeline.xlen(name)
        answers = [int(one) for one in pipeline.execute()]
    batches, (results, dead, dead_searches, *searches) = answers[:_PRIORITIES], answers[_PRIORITIES:]
    return QueueLengths(sum(batches), results, dead, dict(zip(_SEARCHES, searches, strict=True)), dead_searches)


@dataclass(frozen=True)
class RedisMemory:
    """Bytes that Redis has taken, and those that it may take: its `maxmemory`, or without one all of its machine's."""

    used: int
    limit: int


def redis_memory(client: Redis) -> RedisMemory:
    """Ask for both. Raises RedisUnavailable, RedisUnusable."""
    with redis_errors_translated():
        told = client.info("memory")
    return RedisMemory(int(told["used_memory"]), int(told["maxmemory"]) or int(told["total_system_memory"]))


def watch_queues(client: Redis) -> None:
    """Let the metrics show each length and the memory, asked for whenever somebody reads the metrics."""
    look = _Look(client)
    for kind in ("used", "limit"):
        REDIS_MEMORY.labels(kind).set_function(partial(look.memory, kind))
    for name in ("batches", "results", "dead_letters", "dead_searches", *(f"searches_{one}" for one in _SEARCHES)):
        WAITING.labels(name).set_function(partial(look.length, name))


class _Look:
    """One question for all gauges of one reading; a Redis that does not answer is not asked for each again."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._lock = Lock()
        self._taken = -_LOOK_SECONDS
        self._lengths: QueueLengths | None = None
        self._memory: RedisMemory | None = None

    def length(self, name: str) -> float:
        """The length of this queue; -1 when Redis did not answer."""
        with self._lock:
            self._look()
            lengths = self._lengths
        if lengths is None:
            return -1.0
        kind, _, priority = name.partition("searches_")
        return float(lengths.searches[priority] if priority else getattr(lengths, kind))

    def memory(self, kind: str) -> float:
        """Bytes used, or the limit; -1 when Redis did not answer."""
        with self._lock:
            self._look()
            memory = self._memory
        return -1.0 if memory is None else float(getattr(memory, kind))

    def _look(self) -> None:
        if monotonic() - self._taken < _LOOK_SECONDS:
            return
        try:
            self._lengths, self._memory = queue_lengths(self._client), redis_memory(self._client)
        except WorkerError:
            self._lengths = self._memory = None
        self._taken = monotonic()
