"""Searches through the service against raw FAISS in one run, over Redis and HTTP, in batches and one by one.

Usage: python benchmarks/service_throughput.py [--quick] [--vectors N] [--seconds S] [--repeats N] [--threads N]

All variants are measured in turns, so that whatever else the machine does meets them alike. FAISS is called with the
vectors, k and threads with which the query worker calls it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from time import monotonic
from typing import Any

import faiss
import numpy as np
from measuring import keep, percentile, show, spread
from redis_round_trips import round_trips
from search_load import Asked, Clients, Load
from searched_system import DIMENSION, SEED, Vectors, fill, queries, unit_vectors
from systems import System, free_port, running

from query_service.client import SearchClient
from storage.catalog import catalog_of

_K = 10
_BLAS_THRESHOLD = 2048  # queries x dimension: FAISS is 4 to 8 times faster with it from 16 queries on
_SMALL = 1000  # vectors of a second collection, in which FAISS takes next to no time
_CLIENTS = (1, 4, 16, 64)
_HTTP = "query_service.http"
_SMALL_NAME, _ALONE = f"RPC, {_SMALL:,} vectors", "RPC, one at a time"


@dataclass
class Measured:
    """What the repeats of one variant gave."""

    seconds: list[list[float]] = field(default_factory=list)  # of each request, by repeat
    rates: list[float] = field(default_factory=list)
    stages: list[Mapping[str, float]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def add(self, asked: Sequence[Asked], wall: float) -> None:
        """Take in one repeat; whatever is not answered makes the figures wrong."""
        refused = [one.outcome for one in asked if one.outcome != "answered"]
        if refused or not asked:
            sys.exit(f"{len(refused)} of {len(asked)} searches were not answered: {set(refused)}")
        self.seconds.append([one.seconds for one in asked])
        self.rates.append(len(asked) / wall)
        self.stages += [{**one.stages, "outside": _outside(one)} for one in asked]
        self.batches += [one.batch for one in asked]

    def p(self, percent: float) -> float:
        """Milliseconds: the median over the repeats of each one's percentile."""
        return 1000 * statistics.median(percentile(part, percent) for part in self.seconds)

    def stage(self, *names: str) -> float:
        """Milliseconds: the median of what these stages took together."""
        return 1000 * statistics.median(sum(one.get(name, 0.0) for name in names) for one in self.stages)

    def figures(self) -> dict[str, Any]:
        """As they are kept."""
        figures = {"p50_ms": self.p(50), "p99_ms": self.p(99), "per_second": self.rates}
        if self.stages:
            figures |= {"mean_batch": statistics.fmean(self.batches)}
            figures["stages_p50_ms"] = {name: self.stage(name) for name in self.stages[0]}
        return figures


def _outside(one: Asked) -> float:
    """The time of one request that neither the index with its reranking nor the model took."""
    return one.seconds - one.stages["search"] - one.stages["embed"]


class RawFaiss:
    """The same vectors in an IndexFlatL2 of this process."""

    def __init__(self, vectors: Vectors, asked: Vectors, threads: int) -> None:
        faiss.cvar.distance_compute_blas_threshold = _BLAS_THRESHOLD
        self._index = faiss.IndexFlatL2(DIMENSION)
        self._index.add(vectors)
        self._asked = asked
        self._threads = threads

    def measure(self, together: int, seconds: float, into: Measured) -> None:
        """So many queries in each call; one alone on one thread, on which it is fastest."""
        faiss.omp_set_num_threads(1 if together == 1 else self._threads)
        places = cycle(range(0, len(self._asked) - together + 1, together))
        taken, begun = [], monotonic()
        while monotonic() < begun + seconds:
            place, started = next(places), monotonic()
            self._index.search(self._asked[place : place + together], _K)
            taken.append(monotonic() - started)
        into.seconds.append(taken)
        into.rates.append(together * len(taken) / (monotonic() - begun))

    def check(self, client: SearchClient) -> None:
        """The service must answer with the same images, or its speed means nothing."""
        for vector in self._asked[:20]:
            _, (rows,) = self._index.search(vector[np.newaxis], _K)
            expected = {f"photos/{row:07}.jpg" for row in rows}
            if set(client.search(vector=vector.tolist(), k=_K).image_ids) != expected:
                sys.exit("the service answers with other images than FAISS: nothing was measured")


@dataclass(frozen=True)
class Services:
    """The addresses of what is measured."""

    batching: str
    one_by_one: str
    http: str | None

    def loads(self, seconds: float, *, quick: bool) -> Iterator[tuple[str, Load]]:
        """The variants, by name, in the order in which they are measured."""
        yield _SMALL_NAME, Load(self.batching, 1, seconds, collection="small", k=_K)
        for clients in (1, 16, 64) if quick else _CLIENTS:
            yield "RPC", Load(self.batching, clients, seconds, k=_K)
            if clients == 16 or not quick:
                yield _ALONE, Load(self.one_by_one, clients, seconds, k=_K)
            if self.http is not None:
                yield "HTTP", Load(self.http, clients, seconds, k=_K)


@contextmanager
def services(vectors: Vectors, threads: int) -> Iterator[tuple[System, Services]]:
    """On one catalog a query worker that batches, one that does not, and the HTTP server if there is one."""
    with running(search_seconds=60.0, requests_per_minute=0) as system:
        with catalog_of(system.settings) as catalog:
            fill(catalog, "default", vectors)
            fill(catalog, "small", vectors[:_SMALL])
        redis = system.redis_url.removesuffix("/0")
        omp = {"OMP_NUM_THREADS": str(threads)}
        system.start("query_service.worker", **omp)
        alone = {"VISUAL_SEARCH_SEARCH_BATCH": "1", "VISUAL_SEARCH_REDIS_URL": f"{redis}/1"}
        system.start("query_service.worker", **omp, **alone)
        yield system, Services(f"{redis}/0", f"{redis}/1", _start_http(system))


def _start_http(system: System) -> str | None:
    if importlib.util.find_spec(f"{_HTTP}.searches") is None:
        return None
    port = free_port()
    system.start(_HTTP, VISUAL_SEARCH_HTTP_PORT=str(port))
    return f"http://127.0.0.1:{port}"


def measure(arguments: argparse.Namespace) -> tuple[dict[tuple[str, int], Measured], dict[str, list[float]]]:
    """All variants in turns: by name and clients, and the round trips of Redis in milliseconds."""
    vectors = unit_vectors(arguments.vectors)
    asked = np.asarray(queries(256), dtype=np.float32)
    raw = RawFaiss(vectors, asked, arguments.threads)
    measured: dict[tuple[str, int], Measured] = {}
    with services(vectors, arguments.threads) as (system, places), Clients() as clients:
        with SearchClient(system.settings) as client:
            raw.check(client)
        with round_trips(places.batching, len(vectors)) as redis:
            for _ in range(arguments.repeats):
                redis.measure(arguments.pings)
                for together in (1, 16, 64):
                    raw.measure(together, arguments.seconds, measured.setdefault(("raw FAISS", together), Measured()))
                for name, load in places.loads(arguments.seconds, quick=arguments.quick):
                    asked_of = clients.run(load)
                    wall = max(one.begun + one.seconds for one in asked_of) - min(one.begun for one in asked_of)
                    measured.setdefault((name, load.clients), Measured()).add(asked_of, wall)
            return measured, redis.taken


def show_variants(measured: Mapping[tuple[str, int], Measured], title: str) -> None:
    """One row for each variant."""
    columns = ["way", "clients", "searches/s", "p50 ms", "p99 ms", "in the queue", "index, reranking", "SQL"]
    rows = []
    for (name, clients), one in measured.items():
        own = [f"{one.stage(stage):.2f}" for stage in ("queued", "search", "metadata", "outside")] if one.stages else []
        batch = f"{statistics.fmean(one.batches):.1f}" if one.batches else str(clients)
        row = [name, str(clients), spread(one.rates), f"{one.p(50):.2f}", f"{one.p(99):.2f}", *(own or [""] * 4), batch]
        rows.append(row)
    show(title, [*columns, "outside, all", "batch"], rows)


def show_aims(measured: Mapping[tuple[str, int], Measured], trips: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """What was aimed at: the overhead of one search in round trips, and what batching gains."""
    raw, rpc, small = (measured[name, 1] for name in ("raw FAISS", "RPC", _SMALL_NAME))
    overheads = {
        "whole": rpc.p(50) - raw.p(50),
        "outside index and model": rpc.stage("outside"),
        "outside index and model, small collection": small.stage("outside"),
    }
    rows = [
        [name, f"{value:.2f}", *(f"{value / statistics.median(taken):.1f}" for taken in trips.values())]
        for name, value in overheads.items()
    ]
    kinds = [f"in {kind} ({statistics.median(taken):.3f} ms)" for kind, taken in trips.items()]
    show("p50 overhead of one search by one client", ["", "ms", *kinds], rows)
    gain = statistics.median(measured["RPC", 16].rates) / statistics.median(measured[_ALONE, 16].rates)
    show("", ["micro-batching at 16 clients, times one at a time"], [[f"{gain:.1f}"]])
    return {**{f"overhead_ms, {name}": value for name, value in overheads.items()}, "batching_gain_at_16": gain}


def main() -> None:
    """Measure in turns, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: for finding what is slow")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, help="of each variant in each repeat (default 5; quick 1.5)")
    parser.add_argument("--repeats", type=int, help="default 5; quick 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of FAISS, for batches")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (1.5 if arguments.quick else 5.0)
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 5)
    arguments.pings = 500 if arguments.quick else 2000
    measured, trips = measure(arguments)
    show_variants(
        measured, f"{arguments.vectors:,} vectors of {DIMENSION}-d, k = {_K}, {arguments.threads} threads; ms"
    )
    aims = show_aims(measured, trips)
    figures = {f"{name}, {clients}": one.figures() for (name, clients), one in measured.items()}
    keep("service_throughput", {"seed": SEED, **vars(arguments), "round_trip_ms": trips, **aims, "variants": figures})


if __name__ == "__main__":
    main()
