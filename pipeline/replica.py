"""An in-memory index that follows the changes feed of one generation. Knows no queue and no model."""

from __future__ import annotations

from storage.catalog import Catalog, Generation
from storage.vector_index import VectorIndex


class IndexReplica:
    """A VectorIndex in step with SQL: `catch_up` applies what was committed since the last call.

    Applying a change twice is harmless, so a replica may be started from any earlier state.
    """

    def __init__(self, catalog: Catalog, generation: Generation) -> None:
        self._catalog = catalog
        self.generation = generation
        self.index = VectorIndex(generation.model.dimension, model=generation.model)
        self.seq = 0  # the last change that the index holds

    def catch_up(self) -> int:
        """Apply all changes committed until now; return how many images changed."""
        changed = 0
        for page in self._catalog.feed.changes(self.generation.id, self.seq):
            self.index.upsert_many(page.upserted_ids, page.vectors)
            self.index.remove_many([image_id for image_id in page.removed_ids if image_id in self.index])
            self.seq = page.last_seq
            changed += len(page.upserted_ids) + len(page.removed_ids)
        return changed
