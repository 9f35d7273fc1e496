"""Results that are committed together give what they would give one after the other, whatever they share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from catalog_batches import add_generation, failure, indexed, metadata, state_of_follower, vector
from queued_jobs import make_job, result
from sqlalchemy import update

from storage.catalog import BatchResult, Catalog, Generation, IndexBatch, tables
from storage.records import failure_id


def _failed(catalog: Catalog, generation: Generation) -> dict[str, int]:
    return {one.image_id: one.attempts for one in catalog.failures.list(generation.collection_id)}


def _batch(generation: Generation, number: int, **parts: object) -> BatchResult:
    return BatchResult(number, generation.id, IndexBatch(**parts), {})  # type: ignore[arg-type]


def test_of_one_image_in_two_results_the_later_one_stands(catalog: Catalog, generation: Generation) -> None:
    _, [first, second, third] = make_job(catalog, generation, ["a"], ["b"], ["c"])
    older, newer = indexed("x", 1, "old"), indexed("x", 2, "new")
    results = [
        _batch(generation, first, upserts=[older, indexed("a", 3)]),
        _batch(generation, second, upserts=[newer]),
        _batch(generation, third, upserts=[indexed("c", 4)]),
    ]
    assert catalog.commit_results(None, results) == [True, True, True]
    assert catalog.images.get(generation.collection_id, "x").sha256 == newer.metadata.sha256
    assert state_of_follower(catalog, generation.id) == {
        "x": vector(2).tobytes(),
        "a": vector(3).tobytes(),
        "c": vector(4).tobytes(),
    }
    assert catalog.generations.get(generation.id).last_seq == 4


@pytest.mark.parametrize("long", [False, True])
def test_a_failure_after_a_success_stays_and_one_before_it_goes(
    catalog: Catalog, generation: Generation, *, long: bool
) -> None:
    _, [first, second] = make_job(catalog, generation, ["a"], ["b"])
    late = "late" * 700 if long else "late"  # as long, it is recorded under a shortened id
    results = [
        _batch(
            generation, first, upserts=[indexed("early-not"), indexed("b")], failures=[failure("early"), failure(late)]
        ),
        _batch(generation, second, upserts=[indexed("early")], failures=[failure("early-not"), failure(late)]),
    ]
    assert catalog.commit_results(None, results) == [True, True]
    assert _failed(catalog, generation) == {"early-not": 1, failure_id(late): 2}


def test_a_removal_takes_what_an_earlier_result_wrote_and_leaves_what_a_later_one_writes(
    catalog: Catalog, generation: Generation
) -> None:
    _, [first, second, third] = make_job(catalog, generation, ["a"], ["b"], ["c"])
    results = [
        _batch(generation, first, upserts=[indexed("gone"), indexed("kept", 1)]),
        _batch(generation, second, removed=["gone", "back"]),
        _batch(generation, third, upserts=[indexed("back", 2)], refreshed=[metadata("kept", attributes={"n": 1})]),
    ]
    assert catalog.commit_results(None, results) == [True, True, True]
    assert state_of_follower(catalog, generation.id) == {"kept": vector(1).tobytes(), "back": vector(2).tobytes()}
    assert catalog.images.get(generation.collection_id, "kept").attributes == {"n": 1}


def test_a_vector_for_a_reindex_does_not_pass_content_that_came_in_the_same_transaction(
    catalog: Catalog, generation: Generation
) -> None:
    """The reindex embedded the old picture; the job before it in the transaction brings another one."""
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", 1, "old"), indexed("b", 2)]))
    building = catalog.generations.get(add_generation(catalog, generation, "building"))
    _, [of_job] = make_job(catalog, generation, ["a"])
    _, reindexing = make_job(catalog, building, ["a"], ["b"], source="file:///reindex/")
    _make_reindex(catalog)
    results = [
        _batch(generation, of_job, upserts=[indexed("a", 3, "new")]),
        result(building, reindexing[0], ["a"]),
        replace(result(building, reindexing[1], ["b"]), batch=IndexBatch(upserts=[indexed("b", 5)])),
    ]
    assert catalog.commit_results(None, results) == [True, True, True]
    assert state_of_follower(catalog, building.id) == {"b": vector(5).tobytes()}
    assert _failed(catalog, generation) == {"a": 1}


def _make_reindex(catalog: Catalog) -> None:
    with catalog._database.write() as connection:
        jobs = tables.jobs
        connection.execute(update(jobs).where(jobs.c.source == "file:///reindex/").values(kind="reindex"))
