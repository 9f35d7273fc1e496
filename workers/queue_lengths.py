"""How much waits where in Redis: batches, finished batches, searches, dead letters. Asks only, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any

from redis import Redis

from workers.errors import WorkerError
from workers.metrics import WAITING
from workers.result_stream import DEAD_LETTERS, STREAM
from workers.servers import redis_errors_translated

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


def watch_queues(client: Redis) -> None:
    """Let the metric show each length, asked for whenever somebody reads the metrics."""
    look = _Look(client)
    for name in ("batches", "results", "dead_letters", "dead_searches", *(f"searches_{one}" for one in _SEARCHES)):
        WAITING.labels(name).set_function(partial(look.length, name))


class _Look:
    """One question for all gauges of one reading; a Redis that does not answer is not asked for each again."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._lock = Lock()
        self._taken = -_LOOK_SECONDS
        self._lengths: QueueLengths | None = None

    def length(self, name: str) -> float:
        """The length of this queue; -1 when Redis did not answer."""
        with self._lock:
            if monotonic() - self._taken >= _LOOK_SECONDS:
                try:
                    self._lengths = queue_lengths(self._client)
                except WorkerError:
                    self._lengths = None
                self._taken = monotonic()
        if self._lengths is None:
            return -1.0
        kind, _, priority = name.partition("searches_")
        return float(self._lengths.searches[priority] if priority else getattr(self._lengths, kind))
