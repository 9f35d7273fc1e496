"""An in-memory index that follows the changes feed of one generation. Knows no queue and no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from storage.catalog import Catalog, ChangePage, Generation
from storage.mapped_vectors import never_changed
from storage.snapshots import SnapshotStore
from storage.vector_index import VectorIndex

_OWN_ROWS = 16_384  # so many in memory (32 MiB at 512-d) are not worth a new start


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
        self.is_of_changed_files: Callable[[], bool] = never_changed  # whether what is mapped is not what was loaded

    @classmethod
    def boot(cls, catalog: Catalog, generation: Generation, snapshots: SnapshotStore) -> IndexReplica:
        """A replica in step with SQL, started from the newest snapshot that is whole, else from SQL alone.

        Which snapshot is found changes the time this takes and never the answers.
        """
        replica = cls(catalog, generation)
        for record, vectors in snapshots.valid(generation):
            replica.index, replica.is_of_changed_files = VectorIndex.mapped(vectors), vectors.changed
            replica.seq = replica.snapshot_seq = record.seq
            break
        replica.catch_up()
        return replica

    def catch_up(self) -> int:
        """Apply all changes committed until now; return how many images changed."""
        return sum(self.apply(page) for page in self.changes(self.seq))

    def changes(self, after_seq: int) -> Iterator[ChangePage]:
        """Fetch what was committed behind a change, and apply nothing: another thread may be searching.

        Only with all pages, to the last one, does the index hold what SQL held at one moment: an image that is
        changed again moves to the end of the feed. Raises as `Feed.changes` does.
        """
        return self._catalog.feed.changes(self.generation.id, after_seq)

    def apply(self, page: ChangePage) -> int:
        """Apply the next page, as fetched by `changes`; return how many images changed."""
        self.index.upsert_many(page.upserted_ids, page.vectors)
        self.index.remove_many([image_id for image_id in page.removed_ids if image_id in self.index])
        self.seq = page.last_seq
        return len(page.upserted_ids) + len(page.removed_ids)

    def can_rest_anew(self, snapshots: SnapshotStore) -> bool:
        """Whether booting again would save memory: a snapshot holds most of what only this process has in memory."""
        if not snapshots.maps_files or self.index.own_rows < max(_OWN_ROWS, len(self.index) // 4):
            return False
        newest = self._catalog.snapshots.newest(self.generation.id)
        return newest is not None and 2 * (newest.seq - self.snapshot_seq) > self.seq - self.snapshot_seq

    def publish(self, snapshots: SnapshotStore) -> None:
        """Publish a snapshot of the index as it stands. Raises StorageError or IndexFileError, and harms nothing.

        Where snapshots are mapped, the index rests on this one from now on: what was changed in memory is given
        back, and the rows are shared with whoever else boots from it.
        """
        with self.index.reading() as vectors:
            snapshots.publish(self.generation, self.seq, vectors)
        self.snapshot_seq = self.seq
        if snapshots.maps_files:
            current = replace(self.generation, last_seq=self.seq)
            for record, mapped in snapshots.valid(current):
                if record.seq == self.seq:
                    self.index, self.is_of_changed_files = VectorIndex.mapped(mapped), mapped.changed
                break
