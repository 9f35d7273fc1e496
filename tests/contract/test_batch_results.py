"""Committing what workers made: each batch once, all in one transaction, newer deletions respected."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from catalog_batches import add_generation, failure, indexed, sha256, state_of_follower, vector
from queued_jobs import batch_row, item, lease, make_job, request, result

from storage.catalog import BatchResult, Catalog, Generation, IndexBatch, IndexedImage, tables
from storage.errors import InvalidVector, VisualSearchError
from storage.records import Attributes


def test_a_batch_delivered_twice_commits_once(catalog: Catalog, generation: Generation) -> None:
    job_id, [batch] = make_job(catalog, generation, ["a", "b"])
    lease(catalog, batch)
    delivered = result(generation, batch, ["a"], failed=["b"])
    assert catalog.commit_results(None, [delivered, delivered]) == [True, False]
    assert catalog.commit_results(None, [delivered]) == [False]
    progress = catalog.jobs.get(job_id)
    assert (progress.job.state, progress.indexed, progress.failed, progress.pending) == ("finished", 1, 1, 0)
    [failure] = catalog.failures.list(generation.collection_id)
    assert failure.attempts == 1
    assert catalog.generations.list(generation.collection_id)[0].last_seq == 1


def test_results_of_many_jobs_commit_together(catalog: Catalog, generation: Generation) -> None:
    jobs = [make_job(catalog, generation, ["a"], ["b"])]
    other = catalog.generations.ensure_active(catalog.collections.ensure("other").id, generation.model)
    jobs.append(make_job(catalog, other, ["a"]))
    results = [
        result(other, jobs[1][1][0], ["a"]),
        *(result(generation, b, [n]) for b, n in zip(jobs[0][1], "ab", strict=True)),
    ]
    assert catalog.commit_results(None, results) == [True, True, True]
    assert [catalog.jobs.get(job_id).job.state for job_id, _ in jobs] == ["finished", "finished"]
    assert set(state_of_follower(catalog, generation.id)) == {"a", "b"}
    assert set(state_of_follower(catalog, other.id)) == {"a"}


def test_a_job_is_finished_when_it_is_listed_and_all_is_done(catalog: Catalog, generation: Generation) -> None:
    job_id, [first, second] = make_job(catalog, generation, ["a"], ["b"], done=False)
    catalog.commit_results(None, [result(generation, first, ["a"]), result(generation, second, ["b"])])
    assert catalog.jobs.get(job_id).job.state == "listing"
    catalog.jobs.listing_done(job_id)
    progress = catalog.jobs.get(job_id)
    assert (progress.job.state, progress.indexed, progress.is_over) == ("finished", 2, True)


def test_one_bad_result_writes_none(catalog: Catalog, generation: Generation) -> None:
    job_id, [good, bad] = make_job(catalog, generation, ["a"], ["b"])
    broken = IndexedImage(indexed("b").metadata, vector(1) * 2)
    results = [result(generation, good, ["a"]), BatchResult(bad, generation.id, IndexBatch(upserts=[broken]), {})]
    with pytest.raises(InvalidVector, match="'b'"):
        catalog.commit_results(None, results)
    assert catalog.images.count(generation.collection_id) == 0
    assert catalog.jobs.get(job_id).batches_left == 2
    assert catalog.commit_results(None, results[:1]) == [True]


def test_an_image_deleted_after_the_job_began_stays_deleted(catalog: Catalog, generation: Generation) -> None:
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a"), indexed("b")]))
    job_id, [batch] = make_job(catalog, generation, ["a", "b", "c"])
    catalog.images.delete(generation.collection_id, ["a"])
    assert catalog.commit_results(None, [result(generation, batch, ["a", "b", "c"])]) == [True]
    assert set(catalog.images.get_many(generation.collection_id, ["a", "b", "c"])) == {"b", "c"}
    assert set(state_of_follower(catalog, generation.id)) == {"b", "c"}
    progress = catalog.jobs.get(job_id)
    assert (progress.indexed, progress.deleted, progress.pending) == (2, 1, 0)


def test_an_image_deleted_after_the_job_began_leaves_no_failure_either(
    catalog: Catalog, generation: Generation
) -> None:
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a"), indexed("b")]))
    job_id, [batch] = make_job(catalog, generation, ["a", "b", "c"])
    catalog.images.delete(generation.collection_id, ["a"])
    assert catalog.commit_results(None, [result(generation, batch, ["b"], failed=["a", "c"])]) == [True]
    assert [one.image_id for one in catalog.failures.list(generation.collection_id)] == ["c"]
    progress = catalog.jobs.get(job_id)
    assert (progress.indexed, progress.failed, progress.deleted, progress.pending) == (1, 1, 1, 0)


def test_an_image_deleted_while_it_killed_its_workers_leaves_no_failure(
    catalog: Catalog, generation: Generation
) -> None:
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
    job_id, [batch] = make_job(catalog, generation, ["a"])
    for _ in range(3):
        catalog.batches.sweep()
        lease(catalog, batch, seconds=0)
    catalog.images.delete(generation.collection_id, ["a"])
    assert catalog.batches.sweep().given_up == 1
    assert catalog.failures.list(generation.collection_id) == []
    progress = catalog.jobs.get(job_id)
    assert (progress.job.state, progress.failed, progress.deleted) == ("finished", 0, 1)


def test_a_batch_of_a_cancelled_job_ends_where_a_switch_would_have_it_done_again(
    catalog: Catalog, generation: Generation
) -> None:
    job_id, [batch] = make_job(catalog, generation, ["a"])
    lease(catalog, batch)
    catalog.jobs.cancel(job_id)
    other = catalog.generations.get(add_generation(catalog, generation, "building"))
    catalog.lifecycle.activate(other.id)
    assert catalog.commit_results(None, [result(generation, batch, ["a"])]) == [False]
    assert batch_row(catalog, batch).state == "cancelled"
    assert catalog.jobs.get(job_id).is_over


def test_a_dropped_image_that_counted_as_reused_counts_as_deleted(catalog: Catalog, generation: Generation) -> None:
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a"), indexed("b")]))
    job_id, [batch] = make_job(catalog, generation, ["a", "b"])
    catalog.images.delete(generation.collection_id, ["a", "b"])
    reused = replace(result(generation, batch, ["a", "b"]), counts={"indexed": 1, "reused": 1})
    catalog.commit_results(None, [reused])
    progress = catalog.jobs.get(job_id)
    assert (progress.indexed, progress.reused, progress.deleted) == (0, 0, 2)
    assert batch_row(catalog, batch).counts == {"indexed": 0, "reused": 0, "deleted": 2}


def test_an_image_deleted_before_the_job_began_may_come_back(catalog: Catalog, generation: Generation) -> None:
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
    catalog.images.delete(generation.collection_id, ["a"])
    _job, [batch] = make_job(catalog, generation, ["a"])
    catalog.commit_results(None, [result(generation, batch, ["a"])])
    assert catalog.images.count(generation.collection_id) == 1


def test_a_result_of_no_known_batch_is_passed_over(catalog: Catalog, generation: Generation) -> None:
    assert catalog.commit_results(None, [result(generation, 999, ["a"])]) == [False]
    assert catalog.images.count(generation.collection_id) == 0
    assert catalog.commit_results(None, []) == []


def test_a_generation_that_is_not_there_takes_nothing_and_holds_nothing_up(
    catalog: Catalog, generation: Generation
) -> None:
    job_id, [batch] = make_job(catalog, generation, ["a"])
    late = replace(result(generation, batch, ["a"]), generation_id=999)
    _job, [good] = make_job(catalog, generation, ["b"], source="file:///elsewhere/")
    assert catalog.commit_results(None, [late, result(generation, good, ["b"])]) == [False, True]
    assert batch_row(catalog, batch).state == "cancelled"
    progress = catalog.jobs.get(job_id)
    assert (progress.is_over, progress.pending) == (True, 1)


def test_what_comes_for_a_retired_generation_is_embedded_again_and_holds_nothing_up(
    catalog: Catalog, generation: Generation
) -> None:
    _job, [batch] = make_job(catalog, generation, ["a"])
    late = replace(result(generation, batch, ["a"]), generation_id=add_generation(catalog, generation, "retired"))
    _job, [good] = make_job(catalog, generation, ["b"], source="file:///elsewhere/")
    assert catalog.commit_results(None, [late, result(generation, good, ["b"])]) == [False, True]
    assert batch_row(catalog, batch).state == "pending"


def test_the_counts_of_a_batch_stand_in_its_row(catalog: Catalog, generation: Generation) -> None:
    _job, [batch] = make_job(catalog, generation, ["a", "b"])
    lease(catalog, batch)
    catalog.commit_results(None, [result(generation, batch, ["a"], failed=["b"])])
    row = batch_row(catalog, batch)
    assert (row.state, row.counts, row.lease_expires_at) == ("done", {"indexed": 1, "failed": 1}, None)
    assert row.finished_at is not None


def test_commits_deletions_changes_and_submissions_at_once_never_wait_in_a_circle(
    catalog: Catalog, generation: Generation
) -> None:
    names = [f"{number:02}" for number in range(60)]
    catalog.commit(generation.id, IndexBatch(upserts=[indexed(name) for name in names]))
    _job, batches = make_job(catalog, generation, *([name] for name in reversed(names)))
    errors: list[VisualSearchError] = []

    def run(work: object) -> None:
        try:
            for turn in range(6):
                work(turn)  # type: ignore[operator]
        except VisualSearchError as error:
            errors.append(error)

    def commit(turn: int) -> None:
        part = slice(turn * 10, turn * 10 + 10)
        pairs = zip(batches[part], list(reversed(names))[part], strict=True)
        catalog.commit_results(None, [result(generation, batch, [name]) for batch, name in pairs])

    def describe(turn: int) -> None:
        catalog.images.set_attributes(generation.collection_id, {name: {"turn": turn} for name in names})

    def delete(turn: int) -> None:
        catalog.images.delete(generation.collection_id, names[turn::7])

    def submit(turn: int) -> None:
        make_job(catalog, generation, [f"new-{turn}"], done=False, source=f"file:///elsewhere/{turn}/")

    works = (commit, describe, delete, submit)
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with catalog._database.read() as connection:
        states = set(connection.scalars(tables.job_batches.select().with_only_columns(tables.job_batches.c.state)))
    assert states == {"done", "pending"}


def job_of_changed_image(catalog: Catalog, generation: Generation, given: Attributes | None) -> int:
    """An image that its job embeds anew, with the attributes that its sidecar gives; the batch's number."""
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", attributes={"by": "first"})]))
    job, _ = catalog.jobs.open(request(generation))
    [batch] = catalog.jobs.add_batches(
        job.id, [[replace(item("a"), attributes=given)]], listed_until="a", counts={"listed": 1}
    )
    return batch


def embedded_anew(generation: Generation, batch: int, attributes: Attributes) -> BatchResult:
    """What a worker makes of it, with attributes as they were when it looked."""
    made = IndexBatch(upserts=[indexed("a", 7, "new content", attributes)])
    return BatchResult(batch, generation.id, made, {"indexed": 1})


def test_attributes_that_were_set_while_an_image_was_embedded_stay(catalog: Catalog, generation: Generation) -> None:
    batch = job_of_changed_image(catalog, generation, None)
    catalog.images.set_attributes(generation.collection_id, {"a": {"by": "user"}})
    catalog.commit_results(None, [embedded_anew(generation, batch, {"by": "first"})])
    image = catalog.images.get(generation.collection_id, "a")
    assert (image.attributes, image.sha256) == ({"by": "user"}, sha256("new content"))


def test_attributes_that_a_sidecar_gives_replace_those_that_were_set(catalog: Catalog, generation: Generation) -> None:
    batch = job_of_changed_image(catalog, generation, {"by": "sidecar"})
    catalog.images.set_attributes(generation.collection_id, {"a": {"by": "user"}})
    catalog.commit_results(None, [embedded_anew(generation, batch, {"by": "sidecar"})])
    assert catalog.images.get(generation.collection_id, "a").attributes == {"by": "sidecar"}


def test_attributes_that_waited_with_a_failure_reach_the_image(catalog: Catalog, generation: Generation) -> None:
    batch = job_of_changed_image(catalog, generation, None)
    waiting = replace(failure("a"), attributes={"by": "sidecar of the failed try"})
    catalog.commit(generation.id, IndexBatch(failures=[waiting]))
    catalog.commit_results(None, [embedded_anew(generation, batch, {"by": "sidecar of the failed try"})])
    assert catalog.images.get(generation.collection_id, "a").attributes == {"by": "sidecar of the failed try"}
    assert catalog.failures.count(generation.collection_id) == 0


def test_of_two_jobs_in_one_commit_the_one_that_gives_attributes_has_its_way(
    catalog: Catalog, generation: Generation
) -> None:
    keeping = job_of_changed_image(catalog, generation, None)
    job, _ = catalog.jobs.open(request(generation, attributes_sha256="other"))
    [giving] = catalog.jobs.add_batches(
        job.id, [[replace(item("a"), attributes={"by": "sidecar"})]], listed_until="a", counts={"listed": 1}
    )
    results = [
        embedded_anew(generation, giving, {"by": "sidecar"}),
        embedded_anew(generation, keeping, {"by": "first"}),
    ]
    assert catalog.commit_results(None, results) == [True, True]
    assert catalog.images.get(generation.collection_id, "a").attributes == {"by": "sidecar"}
