"""The snapshots of a generation go with it, also when somebody was killed or was at work on one."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalog_batches import MODEL
from snapshot_steps import commit, publish

from pipeline.replica import IndexReplica
from storage.catalog import Catalog, Generation
from storage.errors import GenerationClosed
from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.snapshots import SnapshotStore, prune_generations


@pytest.fixture
def replaced(catalog: Catalog, generation: Generation, store: SnapshotStore) -> Generation:
    """A generation with a snapshot that is on standby: another one, with a snapshot too, is active."""
    commit(catalog, generation, "abc")
    publish(catalog, generation, store)
    target = catalog.lifecycle.begin(generation.collection_id, MODEL, rebuild=True)
    catalog.lifecycle.copy_vectors(generation.id, target.id)
    publish(catalog, catalog.lifecycle.activate(target.id), store)
    return generation


def test_pruning_removes_the_snapshots_and_no_others(
    catalog: Catalog, replaced: Generation, store: SnapshotStore, backend: StorageBackend
) -> None:
    before = {one.key for one in backend.list()}
    assert [one.id for one in prune_generations(catalog, store, replaced.collection_id)] == [replaced.id]
    left = {one.key for one in backend.list()}
    assert left
    assert {key.split("/")[0] for key in before - left} == {next(iter(sorted(before))).split("/")[0]}
    active = catalog.generations.active(replaced.collection_id)
    assert active is not None
    assert set(IndexReplica.boot(catalog, active, store).index.ids()) == set("abc")
    assert {key.split("/")[0] for key in left}.isdisjoint(key.split("/")[0] for key in before - left)


def test_files_that_a_killed_prune_left_go_with_the_next(
    catalog: Catalog, replaced: Generation, store: SnapshotStore, backend: StorageBackend
) -> None:
    catalog.lifecycle.prune(replaced.collection_id)  # and was killed then
    before = {one.key for one in backend.list()}
    assert prune_generations(catalog, store, replaced.collection_id) == []
    assert len({one.key for one in backend.list()}) < len(before)


def test_a_snapshot_that_is_written_while_its_generation_is_pruned_is_not_recorded_and_leaves_no_files(
    catalog: Catalog, replaced: Generation, store: SnapshotStore, backend: StorageBackend
) -> None:
    replica = IndexReplica(catalog, replaced)
    replica.catch_up()
    prune_generations(catalog, store, replaced.collection_id)
    before = {one.key for one in backend.list()}
    with pytest.raises(GenerationClosed):
        replica.publish(store)
    assert catalog.snapshots.list(replaced.id) == []
    assert {one.key for one in backend.list()} == before


def test_unfinished_files_of_a_pruned_generation_are_removed_at_once(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    disk = LocalStorage(tmp_path / "disk")
    store = SnapshotStore(catalog, disk)
    commit(catalog, generation, "abc")
    publish(catalog, generation, store)
    unfinished = disk.root / next(disk.list()).key.split("/")[0] / ".visual-search-0.part"
    unfinished.write_bytes(b"x")
    catalog.lifecycle.activate(
        catalog.lifecycle.begin(generation.collection_id, MODEL, rebuild=True).id, missing_allowed=3
    )
    prune_generations(catalog, store, generation.collection_id)
    assert not unfinished.exists()
    assert list(disk.list()) == []
