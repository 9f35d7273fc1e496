"""Generations: begun beside the active one, filled, switched, rolled back, pruned; on every database."""

import numpy as np
import pytest
from catalog_batches import MODEL

from storage.catalog import ImageFailure, IndexBatch, IndexedImage
from storage.errors import GenerationClosed, GenerationIncomplete, UnknownGeneration
from storage.records import ImageMetadata

OTHER = MODEL.model_copy(update={"name": "other", "weights_fingerprint": "f" * 64})


def _image(image_id: str, seed: int) -> IndexedImage:
    vector = np.random.default_rng(seed).standard_normal(MODEL.dimension).astype(np.float32)
    metadata = ImageMetadata(image_id=image_id, source_uri=f"file:///{image_id}", sha256=f"{seed:064x}")
    return IndexedImage(metadata, vector / np.linalg.norm(vector))


@pytest.fixture
def filled(catalog, generation):
    """The active generation with five images."""
    catalog.commit(generation.id, IndexBatch(upserts=[_image(f"{n}.jpg", n) for n in range(1, 6)]))
    return generation


def _states(catalog, generation) -> dict[int, str]:
    return {one.id: one.state for one in catalog.generations.list(generation.collection_id)}


def test_a_new_model_begins_a_building_generation_and_the_same_call_finds_it_again(catalog, filled):
    building = catalog.lifecycle.begin(filled.collection_id, OTHER)
    assert (building.state, building.model, building.last_seq) == ("building", OTHER, 0)
    assert catalog.lifecycle.begin(filled.collection_id, OTHER) == building
    assert catalog.generations.active(filled.collection_id).id == filled.id


def test_missing_are_the_live_images_without_a_vector_of_their_present_content(catalog, filled):
    building = catalog.lifecycle.begin(filled.collection_id, OTHER)
    catalog.commit(building.id, IndexBatch(upserts=[_image("1.jpg", 1), _image("2.jpg", 2)]))
    catalog.images.delete(filled.collection_id, ["5.jpg"])
    changed = _image("2.jpg", 99)
    catalog.commit(filled.id, IndexBatch(upserts=[changed]))
    assert [image.image_id for image in catalog.lifecycle.missing(building.id)] == ["2.jpg", "3.jpg", "4.jpg"]
    assert catalog.lifecycle.missing_count(building.id) == 3
    assert catalog.lifecycle.missing_count(filled.id) == 0


def test_copied_vectors_are_the_same_vectors_page_by_page(catalog, filled, monkeypatch):
    monkeypatch.setattr("storage.catalog.lifecycle._COPY_ROWS", 2)
    building = catalog.lifecycle.begin(filled.collection_id, MODEL, rebuild=True)
    pages, after = [], ""
    while ids := catalog.lifecycle.copy_vectors(filled.id, building.id, after=after):
        pages.append(ids)
        after = ids[-1]
    assert pages == [["1.jpg", "2.jpg"], ["3.jpg", "4.jpg"], ["5.jpg"]]
    (old,) = catalog.feed.changes(filled.id)
    (new,) = catalog.feed.changes(building.id)
    assert new.upserted_ids == old.upserted_ids
    np.testing.assert_array_equal(new.vectors, old.vectors)
    assert new.last_seq == 5


def test_a_switch_that_would_lose_images_is_refused_and_changes_nothing(catalog, filled):
    building = catalog.lifecycle.begin(filled.collection_id, OTHER)
    catalog.commit(building.id, IndexBatch(upserts=[_image("1.jpg", 1)]))
    with pytest.raises(GenerationIncomplete, match="4 images"):
        catalog.lifecycle.activate(building.id)
    assert catalog.generations.active(filled.collection_id).id == filled.id
    assert catalog.lifecycle.activate(building.id, missing_allowed=4).state == "active"


def test_a_switch_puts_the_old_generation_on_standby_and_a_rollback_goes_back(catalog, filled):
    building = catalog.lifecycle.begin(filled.collection_id, OTHER)
    catalog.commit(building.id, IndexBatch(upserts=[_image(f"{n}.jpg", n) for n in range(1, 6)]))
    with pytest.raises(UnknownGeneration):
        catalog.lifecycle.previous(filled.collection_id)
    catalog.lifecycle.activate(building.id)
    assert _states(catalog, filled) == {filled.id: "standby", building.id: "active"}
    assert catalog.collections.get("photos").active_generation_id == building.id
    assert catalog.lifecycle.previous(filled.collection_id).id == filled.id
    catalog.lifecycle.activate(filled.id)
    assert _states(catalog, filled) == {filled.id: "active", building.id: "standby"}


def test_a_rollback_goes_to_the_one_that_was_active_before_and_a_prune_keeps_it(catalog, filled):
    def made(identity, **how):
        generation = catalog.lifecycle.begin(filled.collection_id, identity, **how)
        catalog.commit(generation.id, IndexBatch(upserts=[_image(f"{n}.jpg", n) for n in range(1, 6)]))
        catalog.lifecycle.activate(generation.id)
        return generation

    second = made(OTHER)
    catalog.lifecycle.activate(filled.id)
    third = made(MODEL, rebuild=True)
    catalog.lifecycle.activate(third.id)  # is active already: nothing is replaced
    assert _states(catalog, filled) == {filled.id: "standby", second.id: "standby", third.id: "active"}
    assert catalog.lifecycle.previous(filled.collection_id).id == filled.id
    assert [one.id for one in catalog.lifecycle.prune(filled.collection_id, keep=1)] == [second.id]


def test_a_deletion_reaches_generations_that_are_building_or_on_standby(catalog, filled):
    building = catalog.lifecycle.begin(filled.collection_id, OTHER)
    catalog.commit(building.id, IndexBatch(upserts=[_image(f"{n}.jpg", n) for n in range(1, 6)]))
    catalog.images.delete(filled.collection_id, ["1.jpg"])
    catalog.lifecycle.activate(building.id)
    catalog.images.delete(filled.collection_id, ["2.jpg"])
    for generation in (filled, building):
        removed = [name for page in catalog.feed.changes(generation.id) for name in page.removed_ids]
        assert removed == ["1.jpg", "2.jpg"]


def test_pruning_deletes_vectors_on_standby_and_keeps_the_active_ones(catalog, filled):
    building = catalog.lifecycle.begin(filled.collection_id, OTHER)
    catalog.commit(building.id, IndexBatch(upserts=[_image(f"{n}.jpg", n) for n in range(1, 6)]))
    catalog.lifecycle.activate(building.id)
    half_built = catalog.lifecycle.begin(filled.collection_id, MODEL, rebuild=True)
    assert [one.id for one in catalog.lifecycle.prune(filled.collection_id)] == [filled.id]
    assert _states(catalog, filled) == {filled.id: "retired", building.id: "active", half_built.id: "building"}
    with pytest.raises(GenerationClosed):
        catalog.lifecycle.activate(filled.id)
    assert [one.id for one in catalog.lifecycle.prune(filled.collection_id, building=True)] == [half_built.id]
    assert sum(len(page.upserted_ids) for page in catalog.feed.changes(building.id)) == 5


def test_a_failure_recorded_by_a_reindex_is_cleared_by_the_vector_that_comes_later(catalog, filled):
    building = catalog.lifecycle.begin(filled.collection_id, OTHER)
    failure = ImageFailure("1.jpg", "file:///1.jpg", "not_found", "gone")
    catalog.commit(building.id, IndexBatch(failures=[failure]))
    assert catalog.failures.count(filled.collection_id) == 1
    catalog.commit(building.id, IndexBatch(upserts=[_image("1.jpg", 1)]))
    assert catalog.failures.count(filled.collection_id) == 0
