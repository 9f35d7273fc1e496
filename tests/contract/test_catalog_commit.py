"""What a commit promises: all or nothing, numbers in commit order, failures beside the images."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from catalog_batches import add_generation, failure, indexed, metadata, sha256, state_of_follower, vector

from storage.catalog import Catalog, FailureRecord, Generation, ImageFailure, IndexBatch, IndexedImage
from storage.errors import CatalogError, DuplicateImageId, GenerationClosed, InvalidVector
from storage.filters import Exists


class TestCommit:
    def test_what_is_committed_comes_back(self, catalog: Catalog, generation: Generation) -> None:
        before = datetime.now(timezone.utc)
        image = indexed("a/ü 猫.jpg", 1, attributes={"label": "cat", "year": 2020, "tags": ["x", "y"]})
        assert catalog.commit(generation.id, IndexBatch(upserts=[image])) == 1
        stored = catalog.images.get(generation.collection_id, "a/ü 猫.jpg")
        times = {"created_at", "updated_at"}
        assert stored.model_dump(exclude=times) == image.metadata.model_dump(exclude=times)
        assert stored.created_at is not None
        assert stored.created_at == stored.updated_at
        assert stored.created_at.utcoffset() == timedelta(0)
        assert before <= stored.created_at <= datetime.now(timezone.utc)
        [page] = catalog.feed.changes(generation.id)
        assert page.upserted_ids == ["a/ü 猫.jpg"]
        assert page.vectors.dtype == np.float32
        np.testing.assert_array_equal(page.vectors[0], image.vector)

    def test_numbers_follow_the_order_of_the_batch(self, catalog: Catalog, generation: Generation) -> None:
        assert catalog.commit(generation.id, IndexBatch(upserts=[indexed("z"), indexed("a")])) == 2
        assert catalog.commit(generation.id, IndexBatch(upserts=[indexed("m")])) == 3
        ids = [image_id for page in catalog.feed.changes(generation.id) for image_id in page.upserted_ids]
        assert ids == ["z", "a", "m"]

    def test_an_empty_batch_changes_nothing(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
        assert catalog.commit(generation.id, IndexBatch()) == 1

    def test_an_upsert_replaces_everything_but_the_first_time(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 1, attributes={"old": 1})]))
        first = catalog.images.get(generation.collection_id, "a")
        newer = indexed("a", 2, content="edited", attributes={"new": 2})
        assert catalog.commit(generation.id, IndexBatch(upserts=[newer])) == 2
        second = catalog.images.get(generation.collection_id, "a")
        assert second.sha256 == sha256("edited")
        assert second.attributes == {"new": 2}
        assert second.created_at == first.created_at
        assert second.updated_at is not None
        assert first.updated_at is not None
        assert second.updated_at >= first.updated_at
        assert state_of_follower(catalog, generation.id) == {"a": vector(2).tobytes()}
        assert catalog.images.matching_ids(generation.collection_id, Exists(key="old")) == set()

    def test_a_refresh_keeps_the_vector_and_its_number(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 1)]))
        moved = metadata("a", attributes={"label": "cat"}).model_copy(update={"etag": "etag-2"})
        assert catalog.commit(generation.id, IndexBatch(refreshed=[moved])) == 1
        assert catalog.images.get(generation.collection_id, "a").etag == "etag-2"
        assert catalog.images.matching_ids(generation.collection_id, Exists(key="label")) == {"a"}
        assert state_of_follower(catalog, generation.id) == {"a": vector(1).tobytes()}

    def test_a_refresh_does_not_undo_the_content_that_came_since_it_was_planned(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
        planned = catalog.images.get(generation.collection_id, "a").model_copy(update={"etag": "touched"})
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 7, "new content")]))
        catalog.commit(generation.id, IndexBatch(refreshed=[planned]))
        assert catalog.images.get(generation.collection_id, "a").sha256 == sha256("new content")
        assert catalog.lifecycle.missing_count(generation.id) == 0

    def test_a_refresh_does_not_bring_back_what_was_deleted(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
        catalog.images.delete(generation.collection_id, ["a"])
        catalog.commit(generation.id, IndexBatch(refreshed=[metadata("a"), metadata("never seen")]))
        assert catalog.images.count(generation.collection_id) == 0

    def test_one_bad_vector_leaves_the_whole_batch_out(self, catalog: Catalog, generation: Generation) -> None:
        bad = IndexedImage(metadata("b"), np.full(8, np.nan, dtype=np.float32))
        batch = IndexBatch(upserts=[indexed("a"), bad], failures=[failure("c")])
        with pytest.raises(InvalidVector, match="'b'"):
            catalog.commit(generation.id, batch)
        assert catalog.images.count(generation.collection_id) == 0
        assert catalog.failures.count(generation.collection_id) == 0
        assert list(catalog.feed.changes(generation.id)) == []

    def test_a_vector_of_another_dimension_is_refused(self, catalog: Catalog, generation: Generation) -> None:
        wrong = IndexedImage(metadata("a"), np.ones(9, dtype=np.float32) / 3)
        with pytest.raises(InvalidVector, match="8"):
            catalog.commit(generation.id, IndexBatch(upserts=[wrong]))

    @pytest.mark.parametrize(
        "batch",
        [
            IndexBatch(upserts=[indexed("a"), indexed("a")]),
            IndexBatch(upserts=[indexed("a")], removed=["a"]),
            IndexBatch(upserts=[indexed("a")], refreshed=[metadata("a")]),
        ],
    )
    def test_an_id_twice_in_a_batch_is_refused(
        self, catalog: Catalog, generation: Generation, batch: IndexBatch
    ) -> None:
        with pytest.raises(DuplicateImageId, match="'a'"):
            catalog.commit(generation.id, batch)

    def test_a_content_hash_that_is_none_is_refused(self, catalog: Catalog, generation: Generation) -> None:
        image = IndexedImage(metadata("a").model_copy(update={"sha256": "not hex"}), vector(0))
        with pytest.raises(CatalogError, match="not hex"):
            catalog.commit(generation.id, IndexBatch(upserts=[image]))

    def test_a_retired_generation_takes_no_commits(self, catalog: Catalog, generation: Generation) -> None:
        retired = add_generation(catalog, generation, "retired")
        with pytest.raises(GenerationClosed, match="retired"):
            catalog.commit(retired, IndexBatch(upserts=[indexed("a")]))
        with pytest.raises(GenerationClosed, match="no generation"):
            catalog.commit(4711, IndexBatch(upserts=[indexed("a")]))

    def test_a_batch_larger_than_any_statement_is_taken(self, catalog: Catalog, generation: Generation) -> None:
        ids = [f"{number:05d}" for number in range(2500)]
        batch = IndexBatch(
            upserts=[indexed(image_id, content=image_id, attributes={"n": int(image_id)}) for image_id in ids]
        )
        assert catalog.commit(generation.id, batch) == 2500
        collection_id = generation.collection_id
        assert [image.image_id for image in catalog.images.list(collection_id)] == ids
        assert len(catalog.images.known(collection_id, generation.id, ids)) == 2500
        assert len(catalog.images.contents(generation.id, [sha256(image_id) for image_id in ids])) == 2500
        assert sum(len(page.upserted_ids) for page in catalog.feed.changes(generation.id, page=999)) == 2500
        assert catalog.images.delete(collection_id, ids) == 2500
        assert catalog.images.count(collection_id) == 0


class TestFailures:
    def test_a_failure_is_counted_until_its_image_is_indexed(self, catalog: Catalog, generation: Generation) -> None:
        collection_id = generation.collection_id
        catalog.commit(generation.id, IndexBatch(failures=[failure("a", "corrupt"), failure("b")]))
        catalog.commit(generation.id, IndexBatch(failures=[failure("a", "too_large")]))
        [first, second] = catalog.failures.list(collection_id)
        assert (first.image_id, first.reason, first.attempts) == ("a", "too_large", 2)
        assert first.first_at < first.last_at
        assert first.first_at.utcoffset() == timedelta(0)
        assert (second.image_id, second.attempts, second.etag) == ("b", 1, "etag-1")
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
        assert [record.image_id for record in catalog.failures.list(collection_id)] == ["b"]

    def test_attributes_wait_with_the_failure_until_others_are_given(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        def kept() -> object:
            [record] = catalog.failures.list(generation.collection_id)
            assert catalog.failures.among(generation.collection_id, ["a", "b"]) == {"a": record.attributes}
            return record.attributes

        for given, wanted in [
            (None, None),
            ({"label": "cat", "tags": ["x", "y"]}, {"label": "cat", "tags": ["x", "y"]}),
            (None, {"label": "cat", "tags": ["x", "y"]}),
            ({}, {}),
            ({"year": 2020}, {"year": 2020}),
        ]:
            catalog.commit(generation.id, IndexBatch(failures=[replace(failure("a"), attributes=given)]))
            assert kept() == wanted

    def test_a_refresh_clears_the_failure_too(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
        catalog.commit(generation.id, IndexBatch(failures=[failure("a")]))
        catalog.commit(generation.id, IndexBatch(refreshed=[metadata("a")]))
        assert catalog.failures.count(generation.collection_id) == 0

    def test_a_failed_image_keeps_its_old_vector(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 1)]))
        catalog.commit(generation.id, IndexBatch(failures=[failure("a")]))
        assert state_of_follower(catalog, generation.id) == {"a": vector(1).tobytes()}

    def test_clear_forgets_only_the_named_ones(self, catalog: Catalog, generation: Generation) -> None:
        collection_id = generation.collection_id
        catalog.commit(generation.id, IndexBatch(failures=[failure("a"), failure("b")]))
        assert catalog.failures.clear(collection_id, ["a", "x"]) == 1
        assert [record.image_id for record in catalog.failures.list(collection_id)] == ["b"]

    def test_a_failure_with_an_unwritable_name_is_still_recorded(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        """File names may be no valid Unicode, messages may quote them."""
        odd = ImageFailure("odd-\udcff.jpg", "file:///odd-\udcff.jpg", "corrupt", "nul \0 inside")
        catalog.commit(generation.id, IndexBatch(failures=[odd]))
        [record] = catalog.failures.list(generation.collection_id)
        assert isinstance(record, FailureRecord)
        assert record.image_id == "odd-\\udcff.jpg"
        assert record.message == "nul \\0 inside"
