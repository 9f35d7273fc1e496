"""What the tests of queued jobs work with: a job with batches, leases of them, and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from catalog_batches import failure, indexed

from storage.catalog import (
    BatchItem,
    BatchResult,
    Catalog,
    Generation,
    IndexBatch,
    JobOptions,
    JobRequest,
    LeasedBatch,
    tables,
)

SOURCE = "file:///photos/"


def request(generation: Generation, **options: Any) -> JobRequest:
    return JobRequest(generation.collection_id, generation.id, "index", SOURCE, JobOptions(**options))


def item(image_id: str) -> BatchItem:
    return BatchItem(image_id, image_id, f"{SOURCE}{image_id}", "etag-1", 12345)


def make_job(
    catalog: Catalog, generation: Generation, *batches: Sequence[str], done: bool = True, source: str = SOURCE
) -> tuple[int, list[int]]:
    """A job with these batches of image ids; `done`: its listing is. Returns its number and the batches'."""
    job, _created = catalog.jobs.open(replace(request(generation), source=source))
    items = [[item(image_id) for image_id in batch] for batch in batches]
    listed = sum(len(batch) for batch in batches)
    last = max((image_id for batch in batches for image_id in batch), default="")
    ids = catalog.jobs.add_batches(job.id, items, listed_until=last, counts={"listed": listed})
    if done:
        catalog.jobs.listing_done(job.id)
    return job.id, ids


def lease(catalog: Catalog, batch_id: int, seconds: float = 60) -> LeasedBatch:
    """Take a lease that is free for certain."""
    leased = catalog.batches.lease(batch_id, "worker", seconds)
    assert leased is not None
    return leased


def result(generation: Generation, batch_id: int, image_ids: Sequence[str], failed: Sequence[str] = ()) -> BatchResult:
    """What a worker would send: these images indexed, those failed."""
    batch = IndexBatch(
        upserts=[indexed(image_id, seed) for seed, image_id in enumerate(image_ids)],
        failures=[failure(image_id) for image_id in failed],
    )
    return BatchResult(batch_id, generation.id, batch, {"indexed": len(image_ids), "failed": len(failed)})


def batch_row(catalog: Catalog, batch_id: int) -> Any:
    """The row as it stands."""
    with catalog._database.read() as connection:
        return connection.execute(tables.job_batches.select().where(tables.job_batches.c.id == batch_id)).one()


def children_of(catalog: Catalog, batch_id: int) -> list[Any]:
    """The halves that a batch was split into."""
    columns = tables.job_batches.c
    with catalog._database.read() as connection:
        statement = tables.job_batches.select().where(columns.parent_id == batch_id).order_by(columns.id)
        return list(connection.execute(statement))
