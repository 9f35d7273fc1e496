"""Steps of tests with snapshots: commit, publish, look, damage."""

from __future__ import annotations

from catalog_batches import indexed

from pipeline.replica import IndexReplica
from storage.catalog import Catalog, Generation, IndexBatch
from storage.images.backend import StorageBackend
from storage.snapshots import SnapshotStore

PART_BYTES = 300  # a few vectors, so that every file has several parts


def commit(catalog: Catalog, generation: Generation, names: str, seed: int = 0) -> None:
    images = [indexed(name, seed + number) for number, name in enumerate(names)]
    catalog.commit(generation.id, IndexBatch(upserts=images))


def fresh(catalog: Catalog, generation: Generation) -> Generation:
    found = catalog.generations.active(generation.collection_id)
    assert found is not None
    return found


def publish(catalog: Catalog, generation: Generation, store: SnapshotStore) -> int:
    replica = IndexReplica.boot(catalog, fresh(catalog, generation), store)
    replica.publish(store)
    return replica.seq


def holds(replica: IndexReplica) -> dict[str, bytes]:
    return {image_id: replica.index.reconstruct(image_id).tobytes() for image_id in replica.index.ids()}


def damage(backend: StorageBackend, seq: int, name: str) -> None:
    """Flip one bit in a file of the snapshot at this change."""
    key = next(one.key for one in backend.list() if f"/{seq:020d}-" in one.key and name in one.key)
    data = bytearray(backend.get(key))
    data[len(data) // 2] ^= 4
    backend.put(key, bytes(data))
