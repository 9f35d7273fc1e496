"""Stage of `make bench`: an index of a million vectors ready to be searched, from a snapshot and in other ways.

Each way runs in a fresh process. "Cold" drops the snapshot's files from the page cache first (posix_fadvise), and
"unchecked" is a snapshot that this disk has not verified yet: its sha256 is computed before the first search.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from measuring import in_fresh_process
from replica_start import boot, forget_checks
from searched_system import fill, unit_vectors
from stage import Given, Row, Table

from pipeline.replica import IndexReplica
from storage.catalog import catalog_of
from storage.settings import Settings
from storage.snapshots import snapshots_of

_VECTORS, _VECTORS_QUICK = 1_000_000, 100_000
_AIM_SECONDS = 0.1
_COLLECTION = "photos"


def measure(given: Given) -> list[Table]:
    """Seconds until the index is ready, and until it has answered once."""
    count = _VECTORS_QUICK if given.quick else _VECTORS
    settings = Settings(data_dir=given.scratch / "snapshots-bench")
    snapshots, plain = str(settings.data_dir / "snapshots"), given.scratch / "plain.faiss"
    in_fresh_process(_prepare, settings, count, str(plain))
    nothing = str(settings.data_dir / "nothing")
    ways: dict[str, tuple[Callable[[], object], Callable[[], tuple[float, float]]]] = {
        "snapshot": (lambda: None, partial(_booted, settings, snapshots)),
        "snapshot, cold": (partial(_drop, snapshots), partial(_booted, settings, snapshots)),
        "snapshot, unchecked": (partial(forget_checks, snapshots), partial(_booted, settings, snapshots)),
        "all from SQL": (lambda: None, partial(_booted, settings, nothing)),
        "faiss.read_index": (lambda: None, partial(in_fresh_process, _read_index, str(plain))),
    }
    ready: dict[str, list[float]] = {name: [] for name in ways}
    answered: dict[str, list[float]] = {name: [] for name in ways}
    _booted(settings, snapshots)  # as it is found when it has been used once
    for _ in range(given.repeats):
        for name, (before, way) in ways.items():
            before()
            seconds, first = way()
            ready[name].append(seconds)
            answered[name].append(seconds + first)
    shutil.rmtree(settings.data_dir)
    plain.unlink()
    return [
        _table(f"{count:,} vectors of 512 ready to be searched", ready, {"snapshot": _AIM_SECONDS}),
        _table("and until it has answered one query", answered, {}),
    ]


def _table(title: str, seconds: dict[str, list[float]], aims: dict[str, float]) -> Table:
    rows = [Row(name, "s", values, aim=aims.get(name)) for name, values in seconds.items() if "snapshot" in name]
    others = ("all from SQL", "faiss.read_index")
    rows += [Row("snapshot", "s", seconds["snapshot"], other, seconds[other]) for other in others]
    return Table(title, rows)


def _prepare(settings: Settings, count: int, plain: str) -> None:
    """Fill a catalog, publish its snapshot, and write a plain FAISS file of the same vectors."""
    vectors = unit_vectors(count)
    with catalog_of(settings) as catalog:
        generation = fill(catalog, _COLLECTION, vectors)
        store = snapshots_of(settings, catalog)
        IndexReplica.boot(catalog, generation, store).publish(store)
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, plain)


def _booted(settings: Settings, snapshots: str) -> tuple[float, float]:
    figures = in_fresh_process(boot, settings, snapshots)
    return figures["boot_seconds"], figures["first_search_seconds"]


def _read_index(plain: str) -> tuple[float, float]:
    query = np.ones((1, 512), dtype=np.float32)
    times = [time.perf_counter()]
    index = faiss.read_index(plain)
    times.append(time.perf_counter())
    index.search(query, 10)
    times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


def _drop(folder: str) -> None:
    """Have the system forget what it holds of these files in memory."""
    os.sync()
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
