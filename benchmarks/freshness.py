"""From commit to searchable, while indexing runs: how late an image that was committed is found, or one removed is not.

Usage: python benchmarks/freshness.py [--quick] [--probes N] [--photos N] [--database sqlite|postgresql]

The real roles index generated photos (submit, embed worker, aggregator) into the collection that is searched.
Meanwhile single images with vectors of their own are committed, and asked for again and again from the moment
the commit returned, until the first answer has them; then removed in the same way. With a hint, as the aggregator
gives one after each commit, and without, as if the hint had been lost: then the worker sees it with its next poll.
A delay ends when the answer is there, so it holds the time of the search that found it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from measuring import keep, percentile, show
from queue_throughput import write_photos
from searched_system import DIMENSION, SEED, Vectors, commit, fill, unit_vectors
from systems import running

from query_service.client import SearchClient
from storage.catalog import Catalog, Generation, JobProgress, catalog_of
from workers.change_hints import announce_change
from workers.job_client import JobClient
from workers.servers import connect_redis

_PROBE_VECTORS = SEED + 2
_LATEST_SECONDS = 10.0  # what takes longer is broken, not slow
_APART_SECONDS = 0.02  # between probes, at seeded random moments: not in step with the polls


class Probes:
    """Commits and removes single images and waits until searches tell."""

    def __init__(self, catalog: Catalog, generation: Generation, client: SearchClient, redis: Any) -> None:
        self._catalog = catalog
        self._generation = generation
        self._client = client
        self._redis = redis
        self._random = np.random.default_rng(SEED)
        self.seconds: dict[str, list[float]] = {}
        self.search_seconds: list[float] = []

    def probe(self, name: str, vector: Vectors, *, hint: bool) -> None:
        """One image comes and goes."""
        how = "with a hint" if hint else "hint lost"
        sleep(float(self._random.exponential(_APART_SECONDS)))
        commit(self._catalog, self._generation, [name], vector[np.newaxis])
        self._note(f"added, {how}", lambda: self._best(vector) == name, hint=hint)
        self._catalog.images.delete(self._generation.collection_id, [name])
        self._note(f"removed, {how}", lambda: self._best(vector) != name, hint=hint)

    def _note(self, kind: str, seen: Callable[[], bool], *, hint: bool) -> None:
        committed = monotonic()
        if hint:
            announce_change(self._redis, self._generation.id, 0)
        while not seen():
            if monotonic() > committed + _LATEST_SECONDS:
                raise SystemExit(f"{kind}: not seen within {_LATEST_SECONDS:g} s")
        self.seconds.setdefault(kind, []).append(monotonic() - committed)

    def _best(self, vector: Vectors) -> str:
        started = monotonic()
        (best,) = self._client.search(vector=vector.tolist(), k=1).image_ids
        self.search_seconds.append(monotonic() - started)
        return best


def measure(arguments: argparse.Namespace) -> tuple[Probes, JobProgress]:
    """All probes, and how far indexing was when the last one was through."""
    with ExitStack() as parts:
        photos = Path(parts.enter_context(tempfile.TemporaryDirectory())) / "photos"
        write_photos(photos, arguments.photos)
        system = parts.enter_context(running(arguments.database))
        catalog = parts.enter_context(catalog_of(system.settings))
        generation = fill(catalog, "default", unit_vectors(arguments.vectors))
        for role in ("workers.aggregator", "workers.embed_worker", "query_service.worker"):
            system.start(role)
        jobs = parts.enter_context(JobClient(system.settings))
        client = parts.enter_context(SearchClient(system.settings))
        probes = Probes(catalog, generation, client, parts.enter_context(connect_redis(system.settings)))
        job = jobs.submit(photos).job
        vectors = iter(unit_vectors(2 * arguments.probes, _PROBE_VECTORS))
        for number in range(arguments.probes):
            for hint in (True, False):
                probes.probe(f"probe/{number}/{hint}", next(vectors), hint=hint)
        return probes, jobs.get(job.id)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--photos", type=int, help="to index meanwhile (default 20000; quick 1500)")
    parser.add_argument("--probes", type=int, help="of each kind (default 200; quick 30)")
    arguments = parser.parse_args()
    arguments.photos = arguments.photos or (1500 if arguments.quick else 20_000)
    arguments.probes = arguments.probes or (30 if arguments.quick else 200)
    probes, job = measure(arguments)
    seconds, searches = probes.seconds, probes.search_seconds
    rows = [_row(kind, taken) for kind, taken in [*seconds.items(), ("one search, for comparison", searches)]]
    title = (
        f"{arguments.vectors:,} vectors of {DIMENSION}-d, {arguments.database}; {job.done:,} photos indexed meanwhile"
    )
    show(title, ["commit to searchable, ms", "p50", "p99", "longest", "n"], rows)
    if not job.pending:
        print("indexing was over before the last probe: take more --photos")
    figures = {"indexed": job.done, "indexing_lasted": bool(job.pending), "seconds": seconds, "searches": searches}
    keep("freshness", {"seed": SEED, **vars(arguments), **figures})


def _row(kind: str, seconds: list[float]) -> list[str]:
    figures = (percentile(seconds, 50), percentile(seconds, 99), max(seconds))
    return [kind, *(f"{1000 * value:.1f}" for value in figures), str(len(seconds))]


if __name__ == "__main__":
    main()
