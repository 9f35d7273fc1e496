"""What the catalog promises of collections, generations, jobs and snapshots, whatever database it is."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from catalog_batches import (
    MODEL,
    indexed,
    sha256,
)

from storage.catalog import (
    Catalog,
    Generation,
    IndexBatch,
    PublishedFile,
)
from storage.errors import (
    CatalogError,
    InvalidCollectionName,
    ModelMismatch,
    UnknownCollection,
)


class TestCollections:
    def test_ensure_makes_a_collection_once(self, catalog: Catalog) -> None:
        first = catalog.collections.ensure("photos")
        assert catalog.collections.ensure("photos") == first
        assert catalog.collections.get("photos") == first
        assert first.active_generation_id is None

    def test_an_unknown_collection_is_an_error_that_names_the_known_ones(self, catalog: Catalog) -> None:
        catalog.collections.ensure("cats")
        with pytest.raises(UnknownCollection, match=r"'dogs'.*cats"):
            catalog.collections.get("dogs")

    @pytest.mark.parametrize("name", ["", "Photos", "-a", "_a", "a b", "a/b", "é", "a\n", "a" * 64])
    def test_a_name_that_would_not_fit_a_url_is_refused(self, catalog: Catalog, name: str) -> None:
        with pytest.raises(InvalidCollectionName):
            catalog.collections.ensure(name)

    def test_list_counts_live_images(self, catalog: Catalog, generation: Generation) -> None:
        catalog.collections.ensure("empty")
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a"), indexed("b"), indexed("c")]))
        catalog.images.delete(generation.collection_id, ["b"])
        counts = {record.name: record.image_count for record in catalog.collections.list()}
        assert counts == {"empty": 0, "photos": 2}


class TestGenerations:
    def test_the_first_model_becomes_the_collections_model(self, catalog: Catalog) -> None:
        collection = catalog.collections.ensure("photos")
        assert catalog.generations.active(collection.id) is None
        generation = catalog.generations.ensure_active(collection.id, MODEL)
        assert generation.model == MODEL
        assert (generation.state, generation.last_seq) == ("active", 0)
        assert catalog.generations.active(collection.id) == generation
        assert catalog.generations.ensure_active(collection.id, MODEL) == generation
        assert catalog.generations.list(collection.id) == [generation]
        assert catalog.collections.get("photos").active_generation_id == generation.id

    def test_another_model_is_refused_with_both_names_and_the_way_out(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        other = MODEL.model_copy(update={"name": "clip", "weights_fingerprint": "w2"})
        with pytest.raises(ModelMismatch, match=r"baseline.*clip.*name, weights_fingerprint.*--collection"):
            catalog.generations.ensure_active(generation.collection_id, other)

    def test_a_collection_that_is_none_has_no_generation(self, catalog: Catalog) -> None:
        with pytest.raises(UnknownCollection):
            catalog.generations.ensure_active(4711, MODEL)

    def test_many_at_once_get_one_collection_and_one_generation(self, catalog: Catalog) -> None:
        barrier = threading.Barrier(4)
        found: list[tuple[int, int]] = []

        def ensure() -> None:
            barrier.wait()
            collection = catalog.collections.ensure("race")
            found.append((collection.id, catalog.generations.ensure_active(collection.id, MODEL).id))

        threads = [threading.Thread(target=ensure) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(set(found)) == 1


class TestJobs:
    def test_a_run_is_recorded_from_start_to_end(self, catalog: Catalog) -> None:
        collection = catalog.collections.ensure("photos")
        first = catalog.jobs.start(collection.id, "index", "file:///photos", {"workers": 4, "include": ["*"]})
        second = catalog.jobs.start(collection.id, "index", "file:///more", {})
        catalog.jobs.finish(first, "finished", {"indexed": 3, "failed": 1})
        [newest, oldest] = catalog.jobs.list(collection.id)
        assert (newest.id, newest.state, newest.finished_at) == (second, "running", None)
        assert (oldest.id, oldest.state, oldest.counts) == (first, "finished", {"indexed": 3, "failed": 1})
        assert oldest.options == {"workers": 4, "include": ["*"]}
        assert oldest.finished_at is not None
        assert oldest.finished_at >= oldest.started_at
        assert [job.id for job in catalog.jobs.list(collection.id, limit=1)] == [second]

    def test_finishing_a_run_that_is_none_is_an_error(self, catalog: Catalog) -> None:
        with pytest.raises(CatalogError, match="4711"):
            catalog.jobs.finish(4711, "failed", {})

    def test_a_run_of_no_collection_is_an_error_of_ours(self, catalog: Catalog) -> None:
        """The foreign keys are checked, and the driver's error does not come through."""
        with pytest.raises(CatalogError):
            catalog.jobs.start(4711, "index", "file:///photos", {})


class TestSnapshots:
    def test_the_newest_snapshot_holds_most_changes(self, catalog: Catalog, generation: Generation) -> None:
        assert catalog.snapshots.newest(generation.id) is None
        for seq in (5, 9, 7):
            catalog.snapshots.record(generation.id, PublishedFile(seq, seq, f"file:///{seq}", sha256(str(seq))))
        newest = catalog.snapshots.newest(generation.id)
        assert newest is not None
        assert (newest.seq, newest.count, newest.uri, newest.sha256) == (9, 9, "file:///9", sha256("9"))
        assert newest.created_at.utcoffset() == timedelta(0)
