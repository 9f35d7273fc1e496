"""Batches: one worker at a time, attempts that are counted, and a sweep that leaves none behind."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

from catalog_batches import indexed
from queued_jobs import batch_row, children_of, item, lease, make_job, request, result

from storage.catalog import Catalog, Generation, IndexBatch, JobRequest, LeasedBatch, SweepReport, UnsentBatch


def later(seconds: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


def expire(catalog: Catalog, batch_id: int, times: int = 1) -> SweepReport:
    """Let so many workers die over a batch, each followed by a sweep."""
    report = SweepReport()
    for _ in range(times):
        lease(catalog, batch_id, seconds=0)
        report = catalog.batches.sweep()
    return report


class TestLease:
    def test_one_worker_at_a_time(self, catalog: Catalog, generation: Generation) -> None:
        _job, [batch] = make_job(catalog, generation, ["a", "b"])
        leased = lease(catalog, batch)
        assert (leased.id, leased.attempts, [one.image_id for one in leased.items]) == (batch, 1, ["a", "b"])
        assert catalog.batches.lease(batch, "another", 60) is None
        assert catalog.batches.lease(999, "another", 60) is None

    def test_many_at_once_lease_it_once(self, catalog: Catalog, generation: Generation) -> None:
        _job, [batch] = make_job(catalog, generation, ["a"])
        answers: list[LeasedBatch | None] = []
        threads = [
            threading.Thread(target=lambda: answers.append(catalog.batches.lease(batch, "w", 60))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([answer for answer in answers if answer is not None]) == 1

    def test_an_expired_lease_goes_to_the_next_worker_with_a_new_token(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        _job, [batch] = make_job(catalog, generation, ["a"])
        frozen = lease(catalog, batch, seconds=0)
        woken = lease(catalog, batch)
        assert (woken.token, woken.attempts) == (frozen.token + 1, 2)
        assert not catalog.batches.renew(batch, frozen.token, 60)
        assert not catalog.batches.give_back(batch, frozen.token)
        assert catalog.batches.renew(batch, woken.token, 60)

    def test_a_batch_that_had_its_attempts_is_left_to_the_sweeper(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        _job, [batch] = make_job(catalog, generation, ["a"])
        for _ in range(3):
            lease(catalog, batch, seconds=0)
        assert catalog.batches.lease(batch, "w", 60) is None
        assert catalog.batches.lease(batch, "w", 60, max_attempts=4) is not None

    def test_a_batch_that_is_done_is_not_worked_on(self, catalog: Catalog, generation: Generation) -> None:
        _job, [batch] = make_job(catalog, generation, ["a"])
        leased = lease(catalog, batch)
        catalog.commit_results(None, [result(generation, batch, ["a"])])
        assert catalog.batches.lease(batch, "w", 60) is None
        assert not catalog.batches.renew(batch, leased.token, 60)

    def test_a_batch_given_back_costs_no_attempt_and_pauses(self, catalog: Catalog, generation: Generation) -> None:
        _job, [batch] = make_job(catalog, generation, ["a"])
        for _ in range(5):
            assert catalog.batches.give_back(batch, lease(catalog, batch).token)
        assert batch_row(catalog, batch).attempts == 0
        assert not catalog.batches.sweep(resend_seconds=60).to_send
        assert catalog.batches.sweep(later(61), resend_seconds=60).to_send == [UnsentBatch(batch, 0)]

    def test_a_batch_of_a_cancelled_job_is_not_given_back_to_others(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        job_id, [batch] = make_job(catalog, generation, ["a"])
        leased = lease(catalog, batch)
        catalog.jobs.cancel(job_id)
        assert catalog.batches.give_back(batch, leased.token)
        assert batch_row(catalog, batch).state == "cancelled"
        assert catalog.jobs.get(job_id).is_over

    def test_restoring_deleted_images_is_told_to_the_worker(self, catalog: Catalog, generation: Generation) -> None:
        job, _ = catalog.jobs.open(request(generation, restore_deleted=True))
        [batch] = catalog.jobs.add_batches(job.id, [[item("a")]], listed_until="a", counts={"listed": 1})
        assert lease(catalog, batch).restore_deleted

    def test_the_images_of_a_job_are_known(self, catalog: Catalog, generation: Generation) -> None:
        job_id, _ = make_job(catalog, generation, *([f"{number:03}"] for number in range(150)))
        make_job(catalog, generation, ["other"], source="file:///elsewhere/")
        assert sorted(catalog.batches.image_ids(job_id)) == [f"{number:03}" for number in range(150)]


class TestSweep:
    def test_what_was_never_sent_is_named_most_urgent_first(self, catalog: Catalog, generation: Generation) -> None:
        _job, [first, second] = make_job(catalog, generation, ["a"], ["b"], done=False)
        urgent, _ = catalog.jobs.open(
            JobRequest(generation.collection_id, generation.id, "index", "file:///urgent/", priority=5)
        )
        [third] = catalog.jobs.add_batches(urgent.id, [[item("c")]], listed_until="c", counts={"listed": 1})
        named = catalog.batches.sweep().to_send
        assert named == [UnsentBatch(third, 5), UnsentBatch(first, 0), UnsentBatch(second, 0)]
        assert catalog.batches.sweep(limit=1).to_send == named[:1]
        assert catalog.batches.sweep(limit=0).to_send == []

    def test_what_was_sent_is_named_again_after_a_while(self, catalog: Catalog, generation: Generation) -> None:
        _job, [first, second] = make_job(catalog, generation, ["a"], ["b"])
        catalog.batches.mark_sent([first, second])
        assert catalog.batches.sweep(resend_seconds=60).to_send == []
        lease(catalog, second, seconds=600)
        assert catalog.batches.sweep(later(61), resend_seconds=60).to_send == [UnsentBatch(first, 0)]

    def test_it_says_since_when_the_oldest_job_waits_for_a_worker(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        assert catalog.batches.sweep().waiting_since is None
        first, [batch] = make_job(catalog, generation, ["a"])
        second, [_later] = make_job(catalog, generation, ["b"], source="file:///later/")
        assert catalog.batches.sweep().waiting_since == catalog.jobs.get(first).job.started_at
        lease(catalog, batch)
        assert catalog.batches.sweep().waiting_since == catalog.jobs.get(second).job.started_at
        catalog.jobs.cancel(second)
        assert catalog.batches.sweep().waiting_since is None

    def test_a_dead_workers_batch_is_named_at_once(self, catalog: Catalog, generation: Generation) -> None:
        _job, [batch] = make_job(catalog, generation, ["a", "b"])
        catalog.batches.mark_sent([batch])
        leased = lease(catalog, batch, seconds=30)
        assert catalog.batches.sweep().expired == 0
        report = catalog.batches.sweep(later(31))
        assert report == SweepReport(expired=1, to_send=[UnsentBatch(batch, 0)])
        assert not catalog.batches.renew(batch, leased.token, 60)
        assert lease(catalog, batch).attempts == 2

    def test_a_batch_that_killed_its_workers_is_split(self, catalog: Catalog, generation: Generation) -> None:
        job_id, [batch] = make_job(catalog, generation, ["a", "b", "c", "d", "e"])
        report = expire(catalog, batch, times=3)
        halves = children_of(catalog, batch)
        assert (report.expired, report.split, report.given_up) == (1, 1, 0)
        assert [[one["image_id"] for one in half.images] for half in halves] == [["a", "b"], ["c", "d", "e"]]
        assert report.to_send == [UnsentBatch(half.id, 0) for half in halves]
        assert batch_row(catalog, batch).state == "done"
        progress = catalog.jobs.get(job_id)
        assert (progress.listed, progress.pending, progress.batches_left) == (5, 5, 2)
        late = result(generation, batch, ["a"])
        assert catalog.commit_results(None, [late]) == [False]

    def test_a_half_of_several_images_has_one_attempt_and_an_image_alone_has_all(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        _job, [batch] = make_job(catalog, generation, ["a", "b", "c"])
        expire(catalog, batch, times=3)
        alone, pair = children_of(catalog, batch)
        assert expire(catalog, pair.id).split == 1
        assert expire(catalog, alone.id, times=2).given_up == 0
        assert expire(catalog, alone.id).given_up == 1

    def test_the_guilty_image_stands_alone_in_failures(self, catalog: Catalog, generation: Generation) -> None:
        names = [f"{number}" for number in range(8)]
        job_id, _ = make_job(catalog, generation, names)
        deaths = 0
        for _ in range(200):
            named = catalog.batches.sweep().to_send
            if not named:
                break
            leased = lease(catalog, named[0].batch_id, seconds=0)
            ids = [one.image_id for one in leased.items]
            if "5" in ids:
                deaths += 1
            else:
                catalog.commit_results(None, [result(generation, leased.id, ids)])
        progress = catalog.jobs.get(job_id)
        assert (progress.job.state, progress.indexed, progress.failed) == ("finished", 7, 1)
        [failure] = catalog.failures.list(generation.collection_id)
        assert (failure.image_id, failure.reason, failure.etag) == ("5", "worker_crashed", "etag-1")
        assert failure.source_uri == "file:///photos/5"
        assert deaths == 3 + 1 + 1 + 3  # the whole batch, four, two, and the image alone

    def test_an_image_that_was_indexed_before_keeps_its_vector(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
        _job, [batch] = make_job(catalog, generation, ["a"])
        expire(catalog, batch, times=3)
        assert catalog.images.count(generation.collection_id) == 1
        assert catalog.failures.count(generation.collection_id) == 1

    def test_a_dead_workers_batch_of_a_cancelled_job_is_dropped(self, catalog: Catalog, generation: Generation) -> None:
        job_id, [batch] = make_job(catalog, generation, ["a"])
        lease(catalog, batch, seconds=0)
        catalog.jobs.cancel(job_id)
        assert catalog.batches.sweep() == SweepReport(expired=1, to_send=[])
        assert catalog.jobs.get(job_id).is_over

    def test_two_sweepers_do_no_harm(self, catalog: Catalog, generation: Generation) -> None:
        _job, batches = make_job(catalog, generation, *([f"{n}a", f"{n}b"] for n in range(10)))
        for batch in batches:
            for _ in range(3):
                lease(catalog, batch, seconds=0)
        reports: list[SweepReport] = []
        threads = [threading.Thread(target=lambda: reports.append(catalog.batches.sweep())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(report.split for report in reports) == 10
        assert all(len(children_of(catalog, batch)) == 2 for batch in batches)
