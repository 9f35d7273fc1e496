"""Batches beside a change of the model: a reindex adds vectors and no more, new images go where searches look."""

from __future__ import annotations

import pytest
from catalog_batches import add_generation, failure, indexed, metadata, sha256, state_of_follower, vector
from queued_jobs import batch_row, item, lease, make_job, result

from storage.catalog import BatchResult, Catalog, Generation, IndexBatch, IndexedImage, JobRequest
from storage.errors import GenerationClosed


@pytest.fixture
def building(catalog: Catalog, generation: Generation) -> Generation:
    """A generation of another model beside the active one, which has three images."""
    images = [indexed(name, seed, attributes={"from": "index"}) for seed, name in enumerate("abc")]
    catalog.commit(generation.id, IndexBatch(upserts=images))
    return catalog.generations.get(add_generation(catalog, generation, "building"))


def reindex_batch(catalog: Catalog, building: Generation, *image_ids: str) -> tuple[int, int]:
    """A job of kind `reindex` with one batch; the numbers of both."""
    job, _created = catalog.jobs.open(JobRequest(building.collection_id, building.id, "reindex", "stored images"))
    [batch] = catalog.jobs.add_batches(
        job.id, [[item(one) for one in image_ids]], listed_until=image_ids[-1], counts={"listed": len(image_ids)}
    )
    catalog.jobs.listing_done(job.id)
    return job.id, batch


def test_the_references_of_a_reindex_are_read_by_their_addresses(catalog: Catalog, building: Generation) -> None:
    _job, batch = reindex_batch(catalog, building, "a")
    leased = lease(catalog, batch)
    assert (leased.by_address, leased.generation) == (True, building)
    _job, [other] = make_job(catalog, building, ["a"])
    assert not lease(catalog, other).by_address


def test_a_reindex_adds_vectors_and_leaves_rows_and_their_newer_attributes_alone(
    catalog: Catalog, building: Generation
) -> None:
    _job, batch = reindex_batch(catalog, building, "a", "b")
    catalog.images.set_attributes(building.collection_id, {"a": {"from": "user"}})
    before = catalog.images.get_many(building.collection_id, "abc")
    made = BatchResult(
        batch, building.id, IndexBatch([indexed("a", 7), indexed("b", 8)], refreshed=[metadata("c")]), {"indexed": 2}
    )
    assert catalog.commit_results(None, [made]) == [True]
    assert catalog.images.get_many(building.collection_id, "abc") == before
    assert state_of_follower(catalog, building.id) == {"a": vector(7).tobytes(), "b": vector(8).tobytes()}
    assert [image.image_id for image in catalog.lifecycle.missing(building.id)] == ["c"]


def test_a_reindex_brings_no_deleted_image_back_and_records_no_failure_of_it(
    catalog: Catalog, building: Generation
) -> None:
    job, batch = reindex_batch(catalog, building, "a", "b", "c")
    catalog.images.delete(building.collection_id, ["a", "c"])
    made = BatchResult(
        batch,
        building.id,
        IndexBatch([indexed("a"), indexed("b")], failures=[failure("c")]),
        {"indexed": 2, "failed": 1},
    )
    catalog.commit_results(None, [made])
    assert set(catalog.images.get_many(building.collection_id, "abc")) == {"b"}
    assert set(state_of_follower(catalog, building.id)) == {"b"}
    assert catalog.failures.list(building.collection_id) == []
    progress = catalog.jobs.get(job)
    assert (progress.indexed, progress.deleted, progress.pending, progress.job.state) == (1, 1, 0, "finished")


def test_content_that_changed_at_its_source_is_a_failure_and_changes_no_row(
    catalog: Catalog, building: Generation
) -> None:
    job, batch = reindex_batch(catalog, building, "a")
    changed = IndexedImage(metadata("a", "another picture"), vector(3))
    catalog.commit_results(None, [BatchResult(batch, building.id, IndexBatch([changed]), {"indexed": 1})])
    assert catalog.images.get(building.collection_id, "a").sha256 == sha256("a")
    assert state_of_follower(catalog, building.id) == {}
    [recorded] = catalog.failures.list(building.collection_id)
    assert (recorded.image_id, recorded.reason) == ("a", "content_changed")
    assert (catalog.jobs.get(job).indexed, catalog.jobs.get(job).failed) == (0, 1)


def test_a_failure_at_an_address_that_the_image_has_left_is_not_recorded(
    catalog: Catalog, generation: Generation, building: Generation
) -> None:
    _job, batch = reindex_batch(catalog, building, "a")
    moved = metadata("a").model_copy(update={"source_uri": "file:///photos/moved.jpg"})
    catalog.commit(generation.id, IndexBatch(refreshed=[moved]))
    made = BatchResult(batch, building.id, IndexBatch(failures=[failure("a", "not_found")]), {"failed": 1})
    catalog.commit_results(None, [made])
    assert catalog.failures.list(building.collection_id) == []


def test_the_embedded_reindex_keeps_to_the_same_rules(catalog: Catalog, building: Generation) -> None:
    changed = IndexedImage(metadata("b", "another picture"), vector(3))
    catalog.images.delete(building.collection_id, ["c"])
    catalog.commit(building.id, IndexBatch([indexed("a", 7), changed, indexed("c")], vectors_only=True))
    assert state_of_follower(catalog, building.id) == {"a": vector(7).tobytes()}
    assert catalog.images.get(building.collection_id, "a").attributes == {"from": "index"}
    assert [one.reason for one in catalog.failures.list(building.collection_id)] == ["content_changed"]


def test_new_images_listed_before_a_switch_are_embedded_for_the_generation_that_is_active_then(
    catalog: Catalog, generation: Generation, building: Generation
) -> None:
    _job, [batch] = make_job(catalog, generation, ["new"])
    catalog.lifecycle.activate(building.id, missing_allowed=3)
    leased = lease(catalog, batch)
    assert leased.generation.id == building.id
    assert catalog.commit_results(None, [result(building, batch, ["new"])]) == [True]
    assert set(state_of_follower(catalog, building.id)) == {"new"}


def test_what_a_worker_embedded_with_the_old_model_across_a_switch_is_done_again(
    catalog: Catalog, generation: Generation, building: Generation
) -> None:
    job, [batch] = make_job(catalog, generation, ["new"])
    lease(catalog, batch)
    catalog.lifecycle.activate(building.id, missing_allowed=3)
    assert catalog.commit_results(None, [result(generation, batch, ["new"])]) == [False]
    assert "new" not in catalog.images.get_many(generation.collection_id, ["new"])
    assert batch_row(catalog, batch).state == "pending"
    assert [one.batch_id for one in catalog.batches.sweep().to_send] == [batch]
    assert lease(catalog, batch).generation.id == building.id
    catalog.commit_results(None, [result(building, batch, ["new"])])
    progress = catalog.jobs.get(job)
    assert (progress.job.state, progress.indexed) == ("finished", 1)


def test_an_embedded_run_that_a_switch_overtakes_stops_instead_of_hiding_its_images(
    catalog: Catalog, generation: Generation, building: Generation
) -> None:
    catalog.lifecycle.activate(building.id, missing_allowed=3)
    with pytest.raises(GenerationClosed, match="run the same command again"):
        catalog.commit(generation.id, IndexBatch([indexed("new")]))
    assert "new" not in catalog.images.get_many(generation.collection_id, ["new"])
    catalog.commit(generation.id, IndexBatch([indexed("a", 5)], vectors_only=True))  # a rollback fills it


def crash_to_the_last_attempt(catalog: Catalog, batch_id: int) -> None:
    """Two workers have died of the batch, and a third one does now."""
    for _ in range(2):
        lease(catalog, batch_id, seconds=0)
        catalog.batches.sweep()
    lease(catalog, batch_id, seconds=0)


def test_an_image_that_crashes_workers_is_tried_again_once_its_generation_was_pruned(
    catalog: Catalog, generation: Generation, building: Generation
) -> None:
    job, [batch] = make_job(catalog, generation, ["new"])
    crash_to_the_last_attempt(catalog, batch)  # by the model that a switch replaces meanwhile
    catalog.lifecycle.activate(building.id, missing_allowed=3)
    catalog.lifecycle.prune(generation.collection_id)
    report = catalog.batches.sweep()  # it has to go on: the aggregator that sweeps is the one that commits
    assert (report.given_up, [one.batch_id for one in report.to_send]) == (0, [batch])
    assert lease(catalog, batch, seconds=0).generation.id == building.id
    assert catalog.batches.sweep().given_up == 1
    assert [one.reason for one in catalog.failures.list(generation.collection_id)] == ["worker_crashed"]
    assert catalog.jobs.get(job).job.state == "finished"


def test_an_image_that_crashes_the_workers_of_a_reindex_ends_with_the_generation_that_was_given_up(
    catalog: Catalog, building: Generation
) -> None:
    job, batch = reindex_batch(catalog, building, "a")
    crash_to_the_last_attempt(catalog, batch)
    catalog.lifecycle.prune(building.collection_id, building=True)
    report = catalog.batches.sweep()
    assert (report.given_up, list(report.to_send)) == (0, [])
    assert batch_row(catalog, batch).state == "cancelled"
    assert catalog.jobs.get(job).is_over
    assert catalog.failures.list(building.collection_id) == []


def test_an_image_that_crashed_the_workers_of_a_reindex_and_was_deleted_is_no_failure(
    catalog: Catalog, building: Generation
) -> None:
    job, batch = reindex_batch(catalog, building, "a")
    crash_to_the_last_attempt(catalog, batch)
    catalog.images.delete(building.collection_id, ["a"])
    assert catalog.batches.sweep().given_up == 1
    assert catalog.failures.list(building.collection_id) == []
    assert catalog.jobs.get(job).job.state == "finished"


def test_pruning_can_keep_the_newest_generation_on_standby(
    catalog: Catalog, generation: Generation, building: Generation
) -> None:
    newest = catalog.generations.get(add_generation(catalog, generation, "building"))
    for one in (building, newest):
        catalog.lifecycle.activate(one.id, missing_allowed=3)
    assert [one.id for one in catalog.lifecycle.prune(generation.collection_id, keep=1)] == [generation.id]
    assert catalog.lifecycle.previous(generation.collection_id).id == building.id
    assert catalog.lifecycle.prune(generation.collection_id, keep=1) == []
