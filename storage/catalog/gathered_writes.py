"""Batches that follow each other are written as one: a statement for many costs little more than for one batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from sqlalchemy import Connection

from storage.catalog.commit import write_batch
from storage.catalog.records import IndexBatch
from storage.records import failure_id


class GatheredWrites:
    """Within one transaction; what comes of it is what writing each batch alone, in order, would give.

    So a batch is never gathered with one that touches the same image, nor with one of another generation or kind.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._target: tuple[int, bool] | None = None  # generation, vectors only
        self._batches: list[IndexBatch] = []
        self._touched: set[str] = set()

    def aim(self, generation_id: int, *, vectors_only: bool) -> None:
        """Say where the next batch goes: before it is looked up what fits, all of another kind has to be written."""
        if self._target != (generation_id, vectors_only):
            self.flush()
            self._target = (generation_id, vectors_only)

    def add(self, batch: IndexBatch) -> None:
        """Write the batch with the next `flush` at the latest; `aim` was called for it."""
        ids = set(_touched_ids(batch))
        if not self._touched.isdisjoint(ids):
            self.flush()
        self._batches.append(batch)
        self._touched |= ids

    def flush(self) -> None:
        """Write what was added."""
        if not self._batches or self._target is None:
            return
        generation_id, vectors_only = self._target
        batches, self._batches, self._touched = self._batches, [], set()
        gathered = IndexBatch(
            upserts=[image for batch in batches for image in batch.upserts],
            refreshed=[image for batch in batches for image in batch.refreshed],
            failures=[failure for batch in batches for failure in batch.failures],
            removed=[image_id for batch in batches for image_id in batch.removed],
            vectors_only=vectors_only,
            keeps_attributes={image_id for batch in batches for image_id in batch.keeps_attributes},
        )
        write_batch(self._connection, generation_id, gathered)


def _touched_ids(batch: IndexBatch) -> Iterator[str]:
    upserted = (image.metadata.image_id for image in batch.upserts)
    refreshed = (image.image_id for image in batch.refreshed)
    return chain(upserted, refreshed, batch.removed, (failure_id(failure.image_id) for failure in batch.failures))
