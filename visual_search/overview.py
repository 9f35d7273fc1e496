"""What a catalog holds, as one document."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from storage.catalog import Catalog
from storage.settings import Settings


class CollectionOverview(BaseModel):
    """One collection: live images, recorded failures, the model, and how many changes its feed has seen.

    `last_seq - snapshot_seq` changes are in no snapshot yet; a follower that starts now reads them from the catalog.
    """

    name: str
    images: int
    failures: int
    model: str
    last_seq: int
    snapshot_seq: int | None  # None: no snapshot was published
    snapshot_at: datetime | None


class RunOverview(BaseModel):
    """One run of indexing."""

    collection: str
    kind: str
    state: str
    source: str
    started_at: datetime
    finished_at: datetime | None
    counts: dict[str, int]


class Overview(BaseModel):
    """A catalog at a glance."""

    data_dir: str
    catalog: str  # the SQLite file, or the PostgreSQL database and its host
    catalog_bytes: int
    collections: list[CollectionOverview]
    last_runs: list[RunOverview]


def overview_of(catalog: Catalog, settings: Settings, *, runs: int = 5) -> Overview:
    """Read the overview from the catalog."""
    collections, last_runs = [], []
    for record in catalog.collections.list():
        generation = catalog.generations.active(record.id)
        snapshot = catalog.snapshots.newest(generation.id) if generation else None
        collections.append(
            CollectionOverview(
                name=record.name,
                images=catalog.images.count(record.id),
                failures=catalog.failures.count(record.id),
                model=str(generation.model) if generation else "none yet",
                last_seq=generation.last_seq if generation else 0,
                snapshot_seq=snapshot.seq if snapshot else None,
                snapshot_at=snapshot.created_at if snapshot else None,
            )
        )
        last_runs += [
            RunOverview(
                collection=record.name,
                kind=job.kind,
                state=job.state,
                source=job.source,
                started_at=job.started_at,
                finished_at=job.finished_at,
                counts=dict(job.counts),
            )
            for job in catalog.jobs.list(record.id, runs)
        ]
    last_runs.sort(key=lambda run: run.started_at, reverse=True)
    return Overview(
        data_dir=str(settings.data_dir),
        catalog=catalog.name,
        catalog_bytes=catalog.size_bytes(),
        collections=collections,
        last_runs=last_runs[:runs],
    )
