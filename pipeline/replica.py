"""An in-memory index that follows the changes feed of one generation. Knows no queue and no model."""

from __future__ import annotations

import logging

from storage.catalog import Catalog, Generation
from storage.errors import IndexFileError
from storage.snapshots import SnapshotStore
from storage.vector_index import VectorIndex

_log = logging.getLogger(__name__)


class IndexReplica:
    """A VectorIndex in step with SQL: `catch_up` applies what was committed since the last call.

    Applying a change twice is harmless, so a replica may be started from any earlier state.
    """

    def __init__(self, catalog: Catalog, generation: Generation) -> None:
        self._catalog = catalog
        self.generation = generation
        self.index = VectorIndex(generation.model.dimension, model=generation.model)
        self.seq = 0  # the last change that the index holds
        self.snapshot_seq = 0  # the last change that the snapshot holds which was loaded or published last

    @classmethod
    def boot(cls, catalog: Catalog, generation: Generation, snapshots: SnapshotStore) -> IndexReplica:
        """A replica in step with SQL, started from the newest snapshot that is whole, else from SQL alone.

        Which snapshot is found changes the time this takes and never the answers.
        """
        replica = cls(catalog, generation)
        for record, saved in snapshots.valid(generation):
            try:
                replica.index = VectorIndex.from_saved(saved, record.uri)
            except IndexFileError as error:
                _log.warning("a snapshot of generation %d is passed over: %s", generation.id, error)
            else:
                replica.seq = replica.snapshot_seq = record.seq
                break
        replica.catch_up()
        return replica

    def catch_up(self) -> int:
        """Apply all changes committed until now; return how many images changed."""
        changed = 0
        for page in self._catalog.feed.changes(self.generation.id, self.seq):
            self.index.upsert_many(page.upserted_ids, page.vectors)
            self.index.remove_many([image_id for image_id in page.removed_ids if image_id in self.index])
            self.seq = page.last_seq
            changed += len(page.upserted_ids) + len(page.removed_ids)
        return changed

    def publish(self, snapshots: SnapshotStore) -> None:
        """Publish a snapshot of the index as it stands. Raises StorageError or IndexFileError, and harms nothing."""
        snapshots.publish(self.generation, self.seq, self.index.pack())
        self.snapshot_seq = self.seq
