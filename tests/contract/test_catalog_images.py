"""What the catalog promises of its images: deleting, known content, listing, attributes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest
from catalog_batches import add_generation, failure, indexed, metadata, sha256, state_of_follower, vector
from sqlalchemy import update

from storage.catalog import Catalog, Generation, IndexBatch, IndexedImage, tables
from storage.catalog.database.engine import Database
from storage.errors import CatalogError, InvalidAttribute, UnknownImageId
from storage.filters import Equals, Exists
from storage.records import Attributes


class TestDelete:
    def test_a_deleted_image_is_known_but_not_shown(self, catalog: Catalog, generation: Generation) -> None:
        collection_id = generation.collection_id
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", attributes={"x": 1}), indexed("b")]))
        assert catalog.images.delete(collection_id, ["a", "no such"]) == 1
        assert [image.image_id for image in catalog.images.list(collection_id)] == ["b"]
        assert catalog.images.count(collection_id) == 1
        assert catalog.images.matching_ids(collection_id, Exists(key="x")) == set()
        assert catalog.images.contents(generation.id, [sha256("a")]) == {}
        with pytest.raises(UnknownImageId, match="'a'"):
            catalog.images.get(collection_id, "a")
        known = catalog.images.known(collection_id, generation.id, ["a", "b", "c"])
        assert (known["a"].deleted, known["a"].has_vector) == (True, False)
        assert (known["b"].deleted, known["b"].has_vector) == (False, True)
        assert "c" not in known

    def test_a_deletion_is_one_change_however_often_it_is_asked_for(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a"), indexed("b")]))
        assert catalog.images.delete(generation.collection_id, ["a"]) == 1
        assert catalog.images.delete(generation.collection_id, ["a"]) == 0
        [page] = catalog.feed.changes(generation.id, 2)
        assert (page.last_seq, page.removed_ids, page.upserted_ids) == (3, ["a"], [])
        assert page.vectors.shape == (0, 8)

    def test_every_open_generation_gets_the_tombstone(self, catalog: Catalog, generation: Generation) -> None:
        building = add_generation(catalog, generation, "building")
        retired = add_generation(catalog, generation, "building")
        for each in (generation.id, building, retired):
            catalog.commit(each, IndexBatch(upserts=[indexed("a")]))
        with catalog._database.write() as connection:
            connection.execute(
                update(tables.generations).where(tables.generations.c.id == retired).values(state="retired")
            )
        assert catalog.images.delete(generation.collection_id, ["a"]) == 1
        assert state_of_follower(catalog, generation.id) == {}
        assert state_of_follower(catalog, building) == {}
        assert set(state_of_follower(catalog, retired)) == {"a"}

    def test_a_batch_removes_as_delete_does(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a"), indexed("b")]))
        assert catalog.commit(generation.id, IndexBatch(upserts=[indexed("c")], removed=["a", "x"])) == 4
        assert set(state_of_follower(catalog, generation.id)) == {"b", "c"}
        assert catalog.images.count(generation.collection_id) == 2

    def test_a_deleted_image_that_comes_back_is_a_new_change(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 1)]))
        catalog.images.delete(generation.collection_id, ["a"])
        assert catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 2)])) == 3
        assert state_of_follower(catalog, generation.id, after=2) == {"a": vector(2).tobytes()}
        assert catalog.images.get(generation.collection_id, "a").image_id == "a"

    def test_deleting_forgets_the_failure(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(failures=[failure("a")]))
        assert catalog.images.delete(generation.collection_id, ["a"]) == 0
        assert catalog.failures.count(generation.collection_id) == 0


class TestKnownContent:
    def test_equal_content_under_another_id_has_its_vector(self, catalog: Catalog, generation: Generation) -> None:
        batch = [indexed("a", 1, content="same"), indexed("b", 1, content="same"), indexed("c", 2)]
        catalog.commit(generation.id, IndexBatch(upserts=batch))
        found = catalog.images.contents(generation.id, [sha256("same"), sha256("other"), ""])
        assert set(found) == {sha256("same")}
        content = found[sha256("same")]
        np.testing.assert_array_equal(content.vector, vector(1))
        assert (content.width, content.height, content.format) == (640, 480, "JPEG")

    def test_a_vector_of_older_content_is_not_taken_for_the_new_one(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        """The image changed and only another generation has embedded it since."""
        building = add_generation(catalog, generation, "building")
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 1, content="old")]))
        catalog.commit(building, IndexBatch(upserts=[indexed("a", 2, content="new")]))
        collection_id = generation.collection_id
        assert not catalog.images.known(collection_id, generation.id, ["a"])["a"].has_vector
        assert catalog.images.known(collection_id, building, ["a"])["a"].has_vector
        assert catalog.images.contents(generation.id, [sha256("new"), sha256("old")]) == {}

    def test_unknown_content_hashes_match_nothing(self, catalog: Catalog, generation: Generation) -> None:
        image = metadata("a").model_copy(update={"sha256": ""})
        catalog.commit(generation.id, IndexBatch(upserts=[IndexedImage(image, vector(1))]))
        assert catalog.images.known(generation.collection_id, generation.id, ["a"])["a"].has_vector
        assert catalog.images.get(generation.collection_id, "a").sha256 == ""
        assert catalog.images.contents(generation.id, [""]) == {}


class TestListing:
    IDS: Sequence[str] = ("B/1", "a/1", "a/2", "a0", "b/1", "b_1", "ä/1", "\U0010ffffz", "\ud7ff1")

    @pytest.fixture
    def collection_id(self, catalog: Catalog, generation: Generation) -> int:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed(image_id) for image_id in self.IDS]))
        return generation.collection_id

    def test_images_come_in_the_order_of_python_strings(self, catalog: Catalog, collection_id: int) -> None:
        assert [image.image_id for image in catalog.images.list(collection_id)] == sorted(self.IDS)

    @pytest.mark.parametrize("prefix", ["", "a", "a/", "B", "b_", "x", "ä", "\U0010ffff", "\ud7ff"])
    def test_a_prefix_is_taken_literally(self, catalog: Catalog, collection_id: int, prefix: str) -> None:
        listed = [image.image_id for image in catalog.images.list(collection_id, prefix=prefix)]
        assert listed == sorted(image_id for image_id in self.IDS if image_id.startswith(prefix))
        assert catalog.images.count(collection_id, prefix=prefix) == len(listed)

    def test_after_and_limit_page_through(self, catalog: Catalog, collection_id: int) -> None:
        first = [image.image_id for image in catalog.images.list(collection_id, limit=4)]
        rest = [image.image_id for image in catalog.images.list(collection_id, after=first[-1])]
        assert len(first) == 4
        assert first + rest == sorted(self.IDS)
        assert list(catalog.images.list(collection_id, limit=0)) == []

    def test_writing_goes_on_between_two_pages(self, catalog: Catalog, collection_id: int) -> None:
        listing = catalog.images.list(collection_id)
        next(listing)
        assert catalog.images.delete(collection_id, ["b/1"]) == 1
        listing.close()  # type: ignore[attr-defined]  # a generator

    def test_get_many_leaves_unknown_ids_out(self, catalog: Catalog, collection_id: int) -> None:
        assert set(catalog.images.get_many(collection_id, ["a/1", "nope"])) == {"a/1"}

    def test_shown_gives_address_and_attributes_of_those_that_live(
        self, catalog: Catalog, collection_id: int, generation: Generation
    ) -> None:
        attributes: Attributes = {"colour": "rot\u00e9", "year": 2026, "share": 0.5, "new": True, "tags": ["a", "b"]}
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("told", attributes=attributes)]))
        catalog.images.delete(collection_id, ["b/1"])
        asked = [
            "told",
            "b/1",
            "nope",
            "NUL\0",
            "\U0010ffffz",
            "told",
            *(f"unknown {number}" for number in range(1000)),
        ]
        shown = catalog.images.shown(collection_id, asked)
        assert set(shown) == {"told", "\U0010ffffz"}
        assert shown["told"] == (catalog.images.get(collection_id, "told").source_uri, attributes)
        assert catalog.images.shown(collection_id, []) == {}
        assert catalog.images.shown(collection_id + 1, ["told"]) == {}


def test_a_statement_that_the_database_refuses_is_an_error_of_the_catalog(catalog_address: str) -> None:
    with closing(Database.open(catalog_address, create=False)) as database:
        for _ in range(20):  # more often than the pool has connections
            with pytest.raises(CatalogError, match="nothing_there"):
                database.rows("SELECT nothing_there FROM images", ())
        assert database.rows("SELECT count(*) FROM images", ()) == [(0,)]


class TestAttributes:
    def test_set_attributes_replaces_them_and_counts_the_changed(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        collection_id = generation.collection_id
        batch = [indexed("a", attributes={"x": 1}), indexed("b", attributes={"x": 1}), indexed("c")]
        catalog.commit(generation.id, IndexBatch(upserts=batch))
        changed = catalog.images.set_attributes(
            collection_id, {"a": {"x": True}, "b": {"x": 1}, "c": {"y": [], "z": None}, "no such": {"x": 9}}
        )
        assert changed == 1
        assert catalog.images.get(collection_id, "a").attributes == {"x": True}
        assert catalog.images.get(collection_id, "c").attributes == {}
        assert catalog.images.matching_ids(collection_id, Equals(key="x", value=1)) == {"b"}

    def test_setting_attributes_is_no_change_of_the_vectors(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
        catalog.images.set_attributes(generation.collection_id, {"a": {"x": 1}})
        assert list(catalog.feed.changes(generation.id, 1)) == []

    @pytest.mark.parametrize(
        "attributes",
        [
            {"x": 2**53 + 1},
            {"x": float("nan")},
            {"x": float("inf")},
            {"x": "nul\0"},
            {"x": "\udcff"},
            {"x": ["ok", "\0"]},
            {"": 1},
            {"k" * 129: 1},
        ],
    )
    def test_what_could_not_be_filtered_exactly_is_refused(
        self, catalog: Catalog, generation: Generation, attributes: Attributes
    ) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", attributes={"old": 1})]))
        with pytest.raises(InvalidAttribute):
            catalog.images.set_attributes(generation.collection_id, {"a": attributes})
        assert catalog.images.get(generation.collection_id, "a").attributes == {"old": 1}
