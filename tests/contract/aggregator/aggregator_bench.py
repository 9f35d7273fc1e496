"""Aggregators that run in threads, and the jobs and results they are given."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from catalog_batches import indexed
from servers import wait_for

from storage.catalog import (
    BatchItem,
    BatchResult,
    Catalog,
    Generation,
    IndexBatch,
    JobProgress,
    JobRequest,
    UnsentBatch,
)
from storage.errors import VisualSearchError
from storage.images.local import LocalStorage
from storage.snapshots import SnapshotStore
from workers.aggregator import Aggregator
from workers.index_keeper import IndexKeeper, SnapshotPolicy
from workers.result_stream import ResultStream
from workers.sweeper import Sweeper, SweepPolicy

NEVER = 3600.0


@dataclass
class Bench:
    """One aggregator as this process runs it, with notes of what it announced and sent."""

    catalog: Catalog
    stream: ResultStream
    folder: Path
    sweeps: SweepPolicy = field(default_factory=lambda: SweepPolicy(0.1, NEVER, 3))
    snapshots: SnapshotPolicy = field(default_factory=lambda: SnapshotPolicy(10**9, NEVER))
    announced: list[tuple[int, int]] = field(default_factory=list)
    sent: list[UnsentBatch] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    problems: list[Exception] = field(default_factory=list)
    queued: int = 0

    def __post_init__(self) -> None:
        self.store = SnapshotStore(self.catalog, LocalStorage(self.folder / "snapshots"))
        self.indexes = IndexKeeper(self.catalog, self.store, self.snapshots)
        self.sweeper = Sweeper(self.catalog, self.sweeps, send=self.sent.append, queued=lambda: self.queued)
        self.aggregator = Aggregator(
            self.catalog,
            self.stream,
            indexes=self.indexes,
            sweeper=self.sweeper,
            announce=lambda generation_id, seq: self.announced.append((generation_id, seq)),
            progress=self.images.append,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it on a thread; what it raises is raised at the end."""
        stop = threading.Event()

        def run() -> None:
            try:
                self.aggregator.run(stop)
            except VisualSearchError as error:
                self.problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=120)
            self.indexes.close()
            assert not thread.is_alive()
        if self.problems:
            raise self.problems[0]


def item(image_id: str) -> BatchItem:
    return BatchItem(image_id, image_id, f"file:///photos/{image_id}", "etag-1", 12345)


def make_job(catalog: Catalog, generation: Generation, batches: Sequence[str]) -> tuple[int, list[int]]:
    """A job of one batch for each text, whose letters are its images."""
    job, _ = catalog.jobs.open(JobRequest(generation.collection_id, generation.id, "index", "file:///photos/"))
    groups = [[item(name) for name in names] for names in batches]
    counts = {"listed": sum(map(len, batches))}
    ids = catalog.jobs.add_batches(job.id, groups, listed_until="z", counts=counts)
    catalog.batches.mark_sent(ids)
    catalog.jobs.listing_done(job.id)
    return job.id, ids


def result(catalog: Catalog, generation: Generation, batch_id: int, names: str) -> BatchResult:
    leased = catalog.batches.lease(batch_id, "worker", 60)
    assert leased is not None
    images = [indexed(name, seed=ord(name)) for name in names]
    return BatchResult(batch_id, generation.id, IndexBatch(upserts=images), {"indexed": len(names)})


def progress_when_over(catalog: Catalog, job_id: int) -> JobProgress:
    wait_for(lambda: catalog.jobs.get(job_id).is_over, what="the job to be over")
    return catalog.jobs.get(job_id)
