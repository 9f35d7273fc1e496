"""Clients that ask a running service as fast as they are answered, or at a given rate: real processes with threads.

Every client is a thread with a connection of its own; threads are shared out among processes, because one Python
process can only run one of them at a time. Times are taken around the whole call, as a caller would see it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from multiprocessing.synchronize import Barrier
from time import monotonic, sleep
from typing import NamedTuple
from urllib.parse import urlsplit

from searched_system import SEED, queries
from typing_extensions import Self

from query_service.client import SearchClient
from storage.errors import VisualSearchError
from storage.settings import Settings

_START_SECONDS = 0.05  # from the moment that all clients are connected; no process is later than that
_LATEST_SECONDS = 120.0  # for the others to come to the line: one of them has ended with an error
_QUERIES = 256  # different ones; clients begin at different places among them

Ask = Callable[[int], "tuple[str, Mapping[str, float], int]"]


class Asked(NamedTuple):
    """One search as its client saw it: begin (monotonic), seconds, "answered" or a reason, and the provenance."""

    begun: float
    seconds: float
    outcome: str
    stages: Mapping[str, float]
    batch: int


@dataclass(frozen=True)
class Load:
    """Who asks what: `clients` at once on `collection` of the Redis or HTTP server at `address`, for `seconds`.

    `per_second` (None: each asks anew when it is answered) is the rate of all together, at seeded random moments.
    """

    address: str
    clients: int
    seconds: float
    collection: str = "default"
    timeout: float = 30.0
    k: int = 10
    per_second: float | None = None
    search_queue: int = 256


class Clients:
    """The processes that ask, started once, so that no measurement waits for imports. Use it as a context."""

    def __init__(self, processes: int | None = None) -> None:
        self._count = processes or min(4, 2 * (os.cpu_count() or 1))
        spawn = multiprocessing.get_context("spawn")
        at_the_line = spawn.Barrier(self._count)
        self._pool = ProcessPoolExecutor(self._count, spawn, initializer=_Line.meet_at, initargs=(at_the_line,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, load: Load) -> list[Asked]:
        """All searches of this load, those that were sent before the time was over and answered after it too."""
        return self.run_together([load])[0]

    def run_together(self, loads: Sequence[Load]) -> list[list[Asked]]:
        """Several loads at the same time, the searches of each by themselves."""
        # a process that waits at the line takes no second part: each gets one
        parts = [self._pool.submit(_clients, loads, process, self._count) for process in range(self._count)]
        by_process = [part.result() for part in parts]
        return [[one for asked in by_process for one in asked[place]] for place in range(len(loads))]


class _Line:
    """Where the processes wait for each other, known to each of them since its start."""

    barrier: Barrier

    @classmethod
    def meet_at(cls, barrier: Barrier) -> None:
        cls.barrier = barrier


def _clients(loads: Sequence[Load], process: int, processes: int) -> list[list[Asked]]:
    """This process's share of the clients of each load: all connected first, then each on its thread."""
    vectors = queries(_QUERIES)
    numbers = [range(process, load.clients, processes) for load in loads]
    with ExitStack() as connections, ThreadPoolExecutor(sum(load.clients for load in loads)) as threads:
        asks = [
            [(number, connections.enter_context(_connected(load, vectors))) for number in mine]
            for load, mine in zip(loads, numbers, strict=True)
        ]
        for number, ask in (one for share in asks for one in share):
            ask(number)
        _Line.barrier.wait(_LATEST_SECONDS)
        begins = monotonic() + _START_SECONDS
        shares = [
            [threads.submit(_paced, load, ask, number, begins) for number, ask in share]
            for load, share in zip(loads, asks, strict=True)
        ]
        return [[one for client in share for one in client.result()] for share in shares]


def _connected(load: Load, vectors: Sequence[Sequence[float]]) -> AbstractContextManager[Ask]:
    return (_http if load.address.startswith("http") else _rpc)(load, vectors)


@contextmanager
def _rpc(load: Load, vectors: Sequence[Sequence[float]]) -> Iterator[Ask]:
    settings = Settings(redis_url=load.address, search_queue=load.search_queue)
    with SearchClient(settings, collection=load.collection) as client:

        def ask(place: int) -> tuple[str, Mapping[str, float], int]:
            try:
                answer = client.search(vector=vectors[place % _QUERIES], k=load.k, timeout=load.timeout)
            except VisualSearchError as error:
                return error.reason, {}, 0
            return "answered", answer.provenance.stage_seconds, answer.provenance.batch_size

        yield ask


@contextmanager
def _http(load: Load, vectors: Sequence[Sequence[float]]) -> Iterator[Ask]:
    place = urlsplit(load.address)
    with closing(HTTPConnection(str(place.hostname), place.port, timeout=60)) as connection:

        def ask(place: int) -> tuple[str, Mapping[str, float], int]:
            parts = [{"vector": vectors[place % _QUERIES]}]
            asked = {"collection": load.collection, "query": parts, "k": load.k, "timeout": load.timeout}
            connection.request("POST", "/v1/search", json.dumps(asked), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            if "error" in answer:
                return str(answer["error"]["reason"]), {}, 0
            return "answered", answer["provenance"]["stage_seconds"], answer["provenance"]["batch_size"]

        yield ask


def _paced(load: Load, ask: Ask, number: int, begins: float) -> list[Asked]:
    """Ask from the common beginning (monotonic) until the time is over."""
    moments = random.Random(SEED + number)
    place = 37 * number
    done: list[Asked] = []
    begin = begins
    sleep(max(0.0, begin - monotonic()))
    end = begins + load.seconds
    while True:
        if load.per_second is not None:
            begin += moments.expovariate(load.per_second / load.clients)
            sleep(max(0.0, begin - monotonic()))
        if max(begin, monotonic()) >= end:
            return done
        started = monotonic()
        outcome, stages, batch = ask(place)
        done.append(Asked(started, monotonic() - started, outcome, stages, batch))
        place += 1
