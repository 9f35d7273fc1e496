"""Queued jobs: one job for one request, added page by page, counted by what is committed, cancelled."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from catalog_batches import add_generation
from queued_jobs import batch_row, item, lease, make_job, request, result

from storage.catalog import BatchItem, Catalog, Generation, JobRecord
from storage.errors import JobClosed, UnknownCollection, UnknownJob


class TestOpen:
    def test_the_same_request_finds_its_unfinished_job(self, catalog: Catalog, generation: Generation) -> None:
        first, created = catalog.jobs.open(request(generation))
        assert created
        assert first.state == "listing"
        assert catalog.jobs.open(request(generation)) == (first, False)
        catalog.jobs.listing_done(first.id)
        assert catalog.jobs.open(request(generation))[1]  # the first one is finished: this is new work

    def test_a_larger_priority_is_taken_over_and_what_waits_is_sent_again(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        job_id, batch_ids = make_job(catalog, generation, ["a"], ["b"], ["c"])
        catalog.batches.mark_sent(batch_ids)
        lease(catalog, batch_ids[0])
        assert catalog.jobs.open(replace(request(generation), priority=0))[0].id == job_id
        assert catalog.batches.sweep().to_send == []
        assert catalog.jobs.open(replace(request(generation), priority=7)) == (catalog.jobs.get(job_id).job, False)
        assert [(one.batch_id, one.priority) for one in catalog.batches.sweep().to_send] == [
            (batch_id, 7) for batch_id in batch_ids[1:]
        ]
        catalog.jobs.open(replace(request(generation), priority=3))
        assert catalog.jobs.get(job_id).job.priority == 7

    def test_the_batch_size_makes_no_other_request(self, catalog: Catalog, generation: Generation) -> None:
        first, _ = catalog.jobs.open(request(generation, batch_images=64))
        second, created = catalog.jobs.open(request(generation, batch_images=65))
        assert (second.id, created) == (first.id, False)

    @pytest.mark.parametrize(
        "other", [{"include": ("a*",)}, {"id_prefix": "x/"}, {"mirror": True}, {"attributes_sha256": "ab"}]
    )
    def test_another_selection_is_another_request(
        self, catalog: Catalog, generation: Generation, other: dict[str, object]
    ) -> None:
        catalog.jobs.open(request(generation))
        assert catalog.jobs.open(request(generation, **other))[1]

    def test_a_reindex_of_another_generation_is_another_request(self, catalog: Catalog, generation: Generation) -> None:
        reindex = replace(request(generation), kind="reindex")
        catalog.jobs.open(reindex)
        other = add_generation(catalog, generation, "building")
        assert catalog.jobs.open(replace(reindex, generation_id=other))[1]

    def test_images_go_where_searches_look_so_a_switch_makes_no_other_request_of_them(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        first, _ = catalog.jobs.open(request(generation))
        other = add_generation(catalog, generation, "building")
        assert catalog.jobs.open(replace(request(generation), generation_id=other)) == (first, False)

    def test_many_at_once_get_one_job(self, catalog: Catalog, generation: Generation) -> None:
        answers: list[tuple[JobRecord, bool]] = []
        threads = [
            threading.Thread(target=lambda: answers.append(catalog.jobs.open(request(generation)))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({job.id for job, _ in answers}) == 1
        assert sorted(created for _, created in answers) == [False, False, False, True]

    def test_an_unknown_collection_has_no_jobs(self, catalog: Catalog, generation: Generation) -> None:
        with pytest.raises(UnknownCollection, match="99"):
            catalog.jobs.open(replace(request(generation), collection_id=99))

    def test_everything_asked_is_kept(self, catalog: Catalog, generation: Generation) -> None:
        asked = replace(request(generation, include=("*.jpg",), mirror=True), priority=7)
        job, _ = catalog.jobs.open(asked)
        assert (job.generation_id, job.kind, job.source, job.priority) == (generation.id, "index", asked.source, 7)
        assert job.options == asked.options.as_json()
        assert job.request_key == asked.key


class TestListing:
    def test_references_come_back_as_they_were(self, catalog: Catalog, generation: Generation) -> None:
        job, _ = catalog.jobs.open(request(generation))
        items = [
            BatchItem("ü 猫.jpg", "ü 猫.jpg", "file:///photos/%C3%BC", "e", 2**40, {"tags": ["x"], "year": 2020}),
            BatchItem("\\udcff.jpg", "\\udcff.jpg", "file:///photos/%FF", "", 0),
        ]
        [batch_id] = catalog.jobs.add_batches(job.id, [items], listed_until="z", counts={"listed": 2})
        leased = lease(catalog, batch_id)
        assert leased.items == items
        assert (leased.job_id, leased.source, leased.generation) == (job.id, job.source, generation)
        assert not leased.restore_deleted

    def test_pages_add_up(self, catalog: Catalog, generation: Generation) -> None:
        job, _ = catalog.jobs.open(request(generation))
        first = catalog.jobs.add_batches(
            job.id, [[item("a")], [item("b")]], listed_until="c", counts={"listed": 3, "unchanged": 1}
        )
        second = catalog.jobs.add_batches(job.id, [[item("d")]], listed_until="d", counts={"listed": 1}, after="c")
        assert [batch_row(catalog, batch_id).ordinal for batch_id in [*first, *second]] == [0, 1, 2]
        progress = catalog.jobs.get(job.id)
        assert (progress.listed, progress.unchanged, progress.pending, progress.batches_left) == (4, 1, 3, 3)
        assert progress.job.listed_until == "d"
        assert progress.eta_seconds is None

    def test_only_one_process_goes_on_with_a_listing(self, catalog: Catalog, generation: Generation) -> None:
        job, _ = catalog.jobs.open(request(generation))
        catalog.jobs.add_batches(job.id, [[item("a")]], listed_until="a", counts={"listed": 1}, after="")
        with pytest.raises(JobClosed, match="another process.*'a'"):
            catalog.jobs.add_batches(job.id, [[item("a")]], listed_until="a", counts={"listed": 1}, after="")
        assert catalog.jobs.get(job.id).listed == 1

    def test_a_listing_with_nothing_to_do_finishes_the_job(self, catalog: Catalog, generation: Generation) -> None:
        job, _ = catalog.jobs.open(request(generation))
        catalog.jobs.add_batches(job.id, [], listed_until="z", counts={"listed": 5, "unchanged": 5})
        catalog.jobs.listing_done(job.id, {"removed": 2})
        progress = catalog.jobs.get(job.id)
        assert (progress.job.state, progress.unchanged, progress.removed) == ("finished", 5, 2)
        assert progress.job.finished_at is not None
        assert progress.is_over

    def test_a_job_that_is_listed_takes_no_more(self, catalog: Catalog, generation: Generation) -> None:
        job_id, _ = make_job(catalog, generation, ["a"])
        with pytest.raises(JobClosed, match="running"):
            catalog.jobs.add_batches(job_id, [[item("b")]], listed_until="b", counts={})
        with pytest.raises(JobClosed, match="running"):
            catalog.jobs.listing_done(job_id)

    def test_many_batches_keep_their_order(self, catalog: Catalog, generation: Generation) -> None:
        _job_id, ids = make_job(catalog, generation, *([f"{number:04}"] for number in range(1100)))
        assert len(set(ids)) == 1100
        for place in (0, 1, 999, 1000, 1099):
            row = batch_row(catalog, ids[place])
            assert (row.ordinal, row.images[0]["image_id"]) == (place, f"{place:04}")


class TestProgress:
    def test_an_unknown_job_is_an_error(self, catalog: Catalog) -> None:
        for ask in (catalog.jobs.get, catalog.jobs.cancel):
            with pytest.raises(UnknownJob, match="99"):
                ask(99)

    def test_rate_and_rest_follow_from_what_is_committed(self, catalog: Catalog, generation: Generation) -> None:
        job_id, [first, _second] = make_job(catalog, generation, ["a", "b"], ["c"])
        assert catalog.jobs.get(job_id).rate == 0
        catalog.commit_results(None, [result(generation, first, ["a"], failed=["b"])])
        progress = catalog.jobs.get(job_id)
        assert (progress.indexed, progress.failed, progress.pending, progress.batches_left) == (1, 1, 1, 1)
        assert progress.rate > 0
        assert progress.eta_seconds is not None
        assert progress.eta_seconds == pytest.approx(1 / progress.rate)

    def test_the_rate_is_that_of_the_newest_batches(self, catalog: Catalog, generation: Generation) -> None:
        names = [f"{number:02}" for number in range(41)]
        job_id, ids = make_job(catalog, generation, *([name] for name in names))
        for batch_id, name in zip(ids[:40], names, strict=False):
            catalog.commit_results(None, [result(generation, batch_id, [name])])
        assert catalog.jobs.get(job_id).rate > 0
        catalog.commit_results(None, [result(generation, ids[40], [names[40]])])
        progress = catalog.jobs.get(job_id)
        assert progress.is_over
        assert progress.job.finished_at is not None
        seconds = (progress.job.finished_at - progress.job.started_at).total_seconds()
        assert progress.rate == pytest.approx(41 / seconds)
        assert progress.eta_seconds is None

    def test_jobs_and_embedded_runs_are_listed_together(self, catalog: Catalog, generation: Generation) -> None:
        run = catalog.jobs.start(generation.collection_id, "index", "file:///x/", {})
        catalog.jobs.finish(run, "finished", {"listed": 3, "indexed": 3})
        job_id, _ = make_job(catalog, generation, ["a"])
        other = catalog.collections.ensure("other").id
        assert [job.id for job in catalog.jobs.list()] == [job_id, run]
        assert [job.id for job in catalog.jobs.list(generation.collection_id, limit=1)] == [job_id]
        assert catalog.jobs.list(other) == []
        progress = catalog.jobs.get(run)
        assert (progress.indexed, progress.pending, progress.is_over) == (3, 0, True)


class TestCancel:
    def test_what_waits_is_dropped_and_what_is_worked_on_still_counts(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        job_id, [taken, waiting] = make_job(catalog, generation, ["a"], ["b"])
        lease(catalog, taken)
        assert catalog.jobs.cancel(job_id)
        assert catalog.batches.lease(waiting, "worker", 60) is None
        progress = catalog.jobs.get(job_id)
        assert (progress.job.state, progress.batches_left, progress.is_over) == ("cancelled", 1, False)
        results = [result(generation, taken, ["a"]), result(generation, waiting, ["b"])]
        assert catalog.commit_results(None, results) == [True, False]
        progress = catalog.jobs.get(job_id)
        assert (progress.indexed, progress.pending, progress.is_over) == (1, 1, True)
        assert progress.job.state == "cancelled"
        assert catalog.images.count(generation.collection_id) == 1

    def test_a_job_is_cancelled_once(self, catalog: Catalog, generation: Generation) -> None:
        job_id, _ = make_job(catalog, generation, ["a"])
        assert catalog.jobs.cancel(job_id)
        assert not catalog.jobs.cancel(job_id)

    def test_a_cancelled_job_is_listed_no_further(self, catalog: Catalog, generation: Generation) -> None:
        job_id, _ = make_job(catalog, generation, ["a"], done=False)
        catalog.jobs.cancel(job_id)
        with pytest.raises(JobClosed, match="cancelled"):
            catalog.jobs.add_batches(job_id, [[item("b")]], listed_until="b", counts={})
        assert catalog.jobs.open(request(generation))[1]  # and the same request makes a new job


class TestAbandon:
    def test_a_listing_that_never_began_is_failed(self, catalog: Catalog, generation: Generation) -> None:
        job, _ = catalog.jobs.open(request(generation))
        assert catalog.jobs.abandon(job.id)
        assert catalog.jobs.get(job.id).job.state == "failed"
        assert catalog.jobs.open(request(generation))[1]

    def test_what_another_process_listed_meanwhile_stays_and_is_gone_on_with(
        self, catalog: Catalog, generation: Generation
    ) -> None:
        job_id, [batch] = make_job(catalog, generation, ["a"], done=False)
        assert not catalog.jobs.abandon(job_id)
        progress = catalog.jobs.get(job_id)
        assert (progress.job.state, progress.listed) == ("listing", 1)
        catalog.commit_results(None, [result(generation, batch, ["a"])])
        catalog.jobs.listing_done(job_id)
        assert catalog.jobs.get(job_id).job.state == "finished"

    def test_a_cancelled_job_stays_cancelled(self, catalog: Catalog, generation: Generation) -> None:
        job, _ = catalog.jobs.open(request(generation))
        catalog.jobs.cancel(job.id)
        assert not catalog.jobs.abandon(job.id)
        assert catalog.jobs.get(job.id).job.state == "cancelled"

    def test_an_unknown_job_is_an_error(self, catalog: Catalog) -> None:
        with pytest.raises(UnknownJob, match="99"):
            catalog.jobs.abandon(99)
