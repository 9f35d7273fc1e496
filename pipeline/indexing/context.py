"""What a run of indexing works with, and how it is to go about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.embedding_service import EmbeddingService
from pipeline.indexing.report import IndexReport
from storage.catalog import Catalog, Generation, IndexBatch


def _no_progress(report: IndexReport) -> None:
    del report


@dataclass(frozen=True)
class IndexOptions:
    """How a run goes about its work; apart from `restore_deleted` none of it changes the result."""

    batch_size: int | None = None  # None: the model's own choice
    fetch_threads: int = 4
    commit_images: int = 256
    restore_deleted: bool = False  # also index again what its user deleted from the collection


@dataclass(frozen=True)
class IndexingContext:
    """One generation of a catalog and the model that belongs to it.

    `service` is called when the first image needs the model and not before, so that a run with nothing to do
    loads no network. `on_progress` is called from the main thread with the growing report. `sink` takes each
    batch of outcomes in place of the catalog itself: a worker sends them to the one process that writes.
    """

    catalog: Catalog
    generation: Generation
    service: Callable[[], EmbeddingService]
    options: IndexOptions = field(default_factory=IndexOptions)
    on_progress: Callable[[IndexReport], None] = _no_progress
    sink: Callable[[IndexBatch], None] | None = None

    def commit(self, batch: IndexBatch) -> None:
        """Hand over a batch of outcomes; when this returns they are in safe hands."""
        if self.sink is not None:
            self.sink(batch)
        else:
            self.catalog.commit(self.generation.id, batch)
