"""Starting a replica of the index from a snapshot and from SQL: time to the first answer, and memory.

In fresh processes in turn: `IndexReplica.boot` from SQL alone, from a snapshot that this disk has not hashed yet, and
from one that it has; then two real query workers at a time on the same catalog, with snapshots and without.
Memory is read from /proc (Linux): what a process holds alone (private), and with its share of what it shares (PSS).
Usage: python benchmarks/replica_start.py [--vectors N] [--rounds N] [--no-workers]
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_fresh_process, keep, show, spread
from searched_system import fill, queries, unit_vectors
from systems import System, running, wait_for

from pipeline.replica import IndexReplica
from query_service.client import SearchClient
from storage.catalog import catalog_of
from storage.images.local import LocalStorage
from storage.settings import Settings
from storage.snapshots import SnapshotStore, snapshots_of

COLLECTION = "photos"
_LOADED = re.compile(r"loaded ([\d,]+) images at change \d+ in ([\d.]+) s")
_LOAD_SECONDS = 600
_SEARCHES = 8  # at once, so that both workers have answered and touched every row

Figures = dict[str, float]


def memory_mib(process_id: str | int = "self") -> Figures:
    """What a process has in memory: resident, its proportional share, and what is its own alone."""
    text = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in text.splitlines()[1:]}
    return {
        "rss_mib": found["Rss"],
        "pss_mib": found["Pss"],
        "private_mib": found["Private_Dirty"],  # file pages that no other process maps now are not its own
    }


def boot(settings: Settings, snapshots: str) -> Figures:
    """Boot a replica in this process, and ask it twice."""
    query = np.array(queries(1)[0], dtype=np.float32)
    with catalog_of(settings) as catalog:
        [(_, generation)] = catalog.generations.all_active()
        store = SnapshotStore(catalog, LocalStorage(snapshots))
        before = memory_mib()["private_mib"]
        times = [time.perf_counter()]
        replica = IndexReplica.boot(catalog, generation, store)
        times.append(time.perf_counter())
        booted = memory_mib()
        for _ in range(2):
            replica.index.search(query, 10)
            times.append(time.perf_counter())
    started, first, second = np.diff(times).tolist()
    return {
        "boot_seconds": started,
        "first_search_seconds": first,
        "second_search_seconds": second,
        "added_private_mib": booted["private_mib"] - before,
        **{f"searched_{name}": value for name, value in memory_mib().items()},
    }


def workers(system: System, snapshots: str, count: int) -> list[Figures]:
    """Start two query workers one after the other, search, and see what each of them needs."""
    figures: list[Figures] = []
    with ExitStack() as parts:
        client = parts.enter_context(SearchClient(system.settings, collection=COLLECTION))
        started = []
        for _ in range(2):
            before = set(system.folder.glob("query_service.worker-*.log"))
            begun = time.perf_counter()
            process = system.start("query_service.worker", VISUAL_SEARCH_SNAPSHOT_ADDRESS=snapshots)
            [log] = set(system.folder.glob("query_service.worker-*.log")) - before
            found = _wait_loaded(log)
            started.append((process, {"loaded_seconds": found, "process_seconds": time.perf_counter() - begun}))
        asking = [{"vector": vector, "k": 10, "timeout": 60.0} for vector in queries(_SEARCHES)]
        with ThreadPoolExecutor(_SEARCHES) as pool:
            answers = list(pool.map(lambda question: client.search(**question), asking * 4))
        if {answer.provenance.images for answer in answers} != {count}:
            raise SystemExit("a worker searched another number of images")
        figures = [{**seconds, **memory_mib(process.pid)} for process, seconds in started]
        for process, _ in started:
            process.terminate()
            process.wait(30)
    return figures


def _wait_loaded(log: Path) -> float:
    wait_for(lambda: _LOADED.search(log.read_text()) is not None, seconds=_LOAD_SECONDS, what="the collection")
    found = _LOADED.search(log.read_text())
    assert found is not None  # noqa: S101 - it was waited for
    return float(found.group(2))


def forget_checks(snapshots: str) -> None:
    """As if the files had just been copied here."""
    for path in Path(snapshots).rglob("*checked.json"):
        path.unlink()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill a catalog, publish its snapshot, boot in every way so many rounds in turn."""
    with running() as system:
        with catalog_of(system.settings) as catalog:
            generation = fill(catalog, COLLECTION, unit_vectors(arguments.vectors))
            store = snapshots_of(system.settings, catalog)
            IndexReplica.boot(catalog, generation, store).publish(store)
        snapshots, nothing = str(system.settings.data_dir / "snapshots"), str(system.folder / "nothing")
        ways: dict[str, tuple[str, Callable[[], None]]] = {
            "SQL": (nothing, lambda: None),
            "snapshot, first time on this disk": (snapshots, lambda: forget_checks(snapshots)),
            "snapshot": (snapshots, lambda: None),
        }
        boots: dict[str, list[Figures]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, (folder, prepare) in ways.items():
                prepare()
                boots[name].append(in_fresh_process(boot, system.settings, folder))
        _show(f"IndexReplica.boot, {arguments.vectors:,} vectors of 512", boots)
        served: dict[str, list[Figures]] = {}
        if not arguments.no_workers:
            for name, folder in (("SQL", nothing), ("snapshot", snapshots)):
                served[name] = workers(system, folder, arguments.vectors)
            _show("two query workers, after searching", served)
    return {"vectors": arguments.vectors, "boot": boots, "workers": served}


def _show(title: str, figures: dict[str, list[Figures]]) -> None:
    names = list(next(iter(figures.values()))[0])
    rows = [
        (way, *(spread([one[name] for one in found], 3 if name.endswith("seconds") else 0) for name in names))
        for way, found in figures.items()
    ]
    show(title, ("from", *(name.replace("_", " ") for name in names)), rows)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-workers", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments)
    if arguments.vectors >= 1_000_000:
        keep("replica_start", figures)


if __name__ == "__main__":
    main()
