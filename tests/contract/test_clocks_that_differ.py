"""Machines whose clocks differ share one PostgreSQL: what one writes as a time, another compares with its own.

(The processes that share a SQLite file are on one machine.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, tzinfo

import pytest
from catalog_batches import MODEL, indexed
from queued_jobs import lease, make_job, result

from storage.catalog import Catalog, Generation, IndexBatch
from storage.catalog.database import clock

Machine = Callable[[timedelta], AbstractContextManager[None]]
AHEAD, BEHIND = timedelta(hours=1), timedelta(hours=-1)


@pytest.fixture
def catalog(postgres_url: str) -> Iterator[Catalog]:
    with Catalog.open(postgres_url) as opened:
        yield opened


@pytest.fixture
def generation(catalog: Catalog) -> Generation:
    return catalog.generations.ensure_active(catalog.collections.ensure("photos").id, MODEL)


@pytest.fixture
def on_a_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Within the block this process has the clock of a machine that is wrong by so much."""

    @contextmanager
    def wrong_by(error: timedelta) -> Iterator[None]:
        class Wrong(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + error

        with monkeypatch.context() as patch:
            patch.setattr(clock, "datetime", Wrong)
            yield

    return wrong_by


@pytest.mark.parametrize("error", [AHEAD, BEHIND])
def test_a_batch_is_its_workers_for_the_time_of_its_lease_whatever_its_machine_takes_the_time_for(
    catalog: Catalog, generation: Generation, on_a_machine: Machine, error: timedelta
) -> None:
    _job, [held, lost] = make_job(catalog, generation, ["a"], ["b"])
    with on_a_machine(error):
        leased = lease(catalog, held, seconds=600)
        lease(catalog, lost, seconds=0)
        assert catalog.batches.renew(held, leased.token, 600)
    assert catalog.batches.lease(held, "another worker", 60) is None
    report = catalog.batches.sweep()
    assert (report.expired, [one.batch_id for one in report.to_send]) == (1, [lost])


@pytest.mark.parametrize("error", [AHEAD, BEHIND])
def test_a_batch_sent_by_any_machine_is_sent_again_after_the_same_time(
    catalog: Catalog, generation: Generation, on_a_machine: Machine, error: timedelta
) -> None:
    _job, [batch] = make_job(catalog, generation, ["a"])
    with on_a_machine(error):
        catalog.batches.mark_sent([batch])
    assert list(catalog.batches.sweep(resend_seconds=600).to_send) == []
    assert [one.batch_id for one in catalog.batches.sweep(resend_seconds=0).to_send] == [batch]


@pytest.mark.parametrize("error", [AHEAD, BEHIND])
def test_a_named_lease_lasts_as_long_as_it_was_taken_for(
    catalog: Catalog, on_a_machine: Machine, error: timedelta
) -> None:
    with on_a_machine(error):
        assert catalog.leases.acquire("held", "first", 600) is not None
        assert catalog.leases.acquire("over", "first", 0) is not None
    assert catalog.leases.acquire("held", "second", 600) is None
    assert catalog.leases.acquire("over", "second", 600) is not None


def test_a_deletion_counts_against_a_job_that_began_before_it_on_a_machine_that_is_ahead(
    catalog: Catalog, generation: Generation, on_a_machine: Machine
) -> None:
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
    with on_a_machine(AHEAD):
        _job, [batch] = make_job(catalog, generation, ["a"])
    catalog.images.delete(generation.collection_id, ["a"])
    catalog.commit_results(None, [result(generation, batch, ["a"])])
    assert catalog.images.count(generation.collection_id) == 0


def test_an_image_comes_back_by_a_job_that_begins_after_a_machine_that_is_ahead_deleted_it(
    catalog: Catalog, generation: Generation, on_a_machine: Machine
) -> None:
    catalog.commit(generation.id, IndexBatch(upserts=[indexed("a")]))
    with on_a_machine(AHEAD):
        catalog.images.delete(generation.collection_id, ["a"])
    _job, [batch] = make_job(catalog, generation, ["a"])
    catalog.commit_results(None, [result(generation, batch, ["a"])])
    assert catalog.images.count(generation.collection_id) == 1
