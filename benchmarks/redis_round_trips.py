"""What Redis itself costs here: a PING, a push with its pop, and a request with its reply between two processes.

The last is the least that any service behind a Redis list can take: two processes, the same bytes, the same scan
of memory before the reply (which empties the caches as FAISS does), and nothing else.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import redis
from measuring import percentile
from searched_system import DIMENSION, unit_vectors

_REQUEST, _REPLY = b"q" * 4800, b"a" * 2200  # as many bytes as a search by vector and its page of ten have
_ASKED, _ANSWERED = "vs:bench:asked", "vs:bench:answered"
_STOP = b"stop"


@contextmanager
def round_trips(url: str, scanned: int) -> Iterator[RoundTrips]:
    """Measures on the Redis at this URL; the answering process scans so many vectors before each reply."""
    answering = multiprocessing.get_context("spawn").Process(target=_answer, args=(url, scanned), daemon=True)
    answering.start()
    client: Any = redis.Redis.from_url(url, protocol=2)
    try:
        while client.blpop(_ANSWERED, timeout=1) is None:
            pass  # it is not ready yet
        yield RoundTrips(client)
    finally:
        client.rpush(_ASKED, _STOP)
        answering.join()
        client.close()


class RoundTrips:
    """Milliseconds (median) of each kind, one for each call of `measure`."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self.taken: dict[str, list[float]] = {}

    def measure(self, times: int) -> None:
        """Each kind so many times; the request with its reply a tenth as often, as it scans."""
        self._add("PING", [_seconds(self._redis.ping) for _ in range(times)])
        self._add("push and pop", [_seconds(self._push_and_pop) for _ in range(times)])
        self._add("request and reply", [self._request() for _ in range(times // 10)])

    def median(self, kind: str) -> float:
        """Over all calls of `measure`."""
        return statistics.median(self.taken[kind])

    def _add(self, kind: str, seconds: Sequence[float]) -> None:
        self.taken.setdefault(kind, []).append(1000 * percentile(seconds, 50))

    def _push_and_pop(self) -> None:
        self._redis.rpush("vs:bench:list", _REQUEST)
        self._redis.lpop("vs:bench:list")

    def _request(self) -> float:
        """Seconds of one request and its reply, without the scan."""
        started = perf_counter()
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(_ASKED, _REQUEST)
            pipeline.blpop(_ANSWERED, timeout=4)
            _, (_, reply) = pipeline.execute()
        return perf_counter() - started - float(reply[: reply.index(b" ")])


def _seconds(call: Callable[[], Any]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def _answer(url: str, scanned: int) -> None:
    """The other process."""
    import faiss

    index, query = faiss.IndexFlatL2(DIMENSION), unit_vectors(1)
    index.add(unit_vectors(scanned))
    faiss.omp_set_num_threads(1)
    client: Any = redis.Redis.from_url(url, protocol=2)
    client.rpush(_ANSWERED, b"ready")
    while (asked := client.blpop(_ASKED, timeout=1)) is None or asked[1] != _STOP:
        if asked is None:
            continue  # other variants have their turn
        started = perf_counter()
        index.search(query, 10)
        client.rpush(_ANSWERED, b"%.9f " % (perf_counter() - started) + _REPLY)
