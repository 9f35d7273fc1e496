"""Named leases: one holder at a time, and an epoch that fences off everyone before."""

from __future__ import annotations

import threading

import pytest
from queued_jobs import make_job, result

from storage.catalog import Catalog, Generation, Lease
from storage.errors import LeaseLost


def test_one_holds_it_and_the_others_wait(catalog: Catalog) -> None:
    lease = catalog.leases.acquire("aggregator", "a", 60)
    assert lease == Lease("aggregator", "a", 1, 60)
    assert catalog.leases.acquire("aggregator", "b", 60) is None
    assert catalog.leases.acquire("other", "b", 60) is not None


def test_an_expired_lease_goes_to_the_next_with_a_larger_epoch(catalog: Catalog) -> None:
    first = catalog.leases.acquire("aggregator", "a", 0)
    second = catalog.leases.acquire("aggregator", "b", 60)
    assert first is not None
    assert second is not None
    assert second.epoch > first.epoch
    assert not catalog.leases.renew(first)
    assert not catalog.leases.release(first)
    assert catalog.leases.acquire("aggregator", "c", 60) is None  # the old one's release took nothing from b


def test_renewing_holds_it_and_releasing_frees_it(catalog: Catalog) -> None:
    lease = catalog.leases.acquire("aggregator", "a", 60)
    assert lease is not None
    assert catalog.leases.renew(lease)
    assert catalog.leases.acquire("aggregator", "b", 60) is None
    assert catalog.leases.release(lease)
    assert catalog.leases.acquire("aggregator", "b", 60) is not None


def test_a_holder_that_starts_again_fences_off_itself(catalog: Catalog) -> None:
    first = catalog.leases.acquire("aggregator", "a", 60)
    second = catalog.leases.acquire("aggregator", "a", 60)
    assert first is not None
    assert second is not None
    assert second.epoch == first.epoch + 1
    assert not catalog.leases.renew(first)


def test_a_lease_that_is_left_to_a_name_is_free_in_time_for_all_who_do_not_heed_the_name(catalog: Catalog) -> None:
    first = catalog.leases.acquire("schedule", "a", 60)
    assert first is not None
    assert catalog.leases.leave_to(first, "done", 0)
    assert not catalog.leases.renew(first)
    assert not catalog.leases.leave_to(first, "done twice", 60)
    assert catalog.leases.acquire("schedule", "b", 60, unless_left_to="done") is None
    second = catalog.leases.acquire("schedule", "b", 60, unless_left_to="something else")
    assert second is not None
    assert second.epoch > first.epoch
    assert catalog.leases.leave_to(second, "done", 60)
    assert catalog.leases.acquire("schedule", "c", 60, unless_left_to="something else") is None


def test_many_at_once_get_it_once(catalog: Catalog) -> None:
    given: list[Lease | None] = []
    threads = [
        threading.Thread(target=lambda n=number: given.append(catalog.leases.acquire("x", str(n), 60)))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([lease for lease in given if lease is not None]) == 1


def test_who_lost_the_lease_writes_nothing(catalog: Catalog, generation: Generation) -> None:
    _job_id, [batch] = make_job(catalog, generation, ["a"])
    old = catalog.leases.acquire("aggregator", "a", 0)
    new = catalog.leases.acquire("aggregator", "b", 60)
    with pytest.raises(LeaseLost, match="a .epoch 1. is now with b .epoch 2."):
        catalog.commit_results(old, [result(generation, batch, ["a"])])
    assert catalog.images.count(generation.collection_id) == 0
    assert catalog.commit_results(new, [result(generation, batch, ["a"])]) == [True]
    with pytest.raises(LeaseLost, match="nobody"):
        catalog.commit_results(Lease("never", "a", 1), [])


def test_a_lease_that_only_ran_out_still_writes(catalog: Catalog, generation: Generation) -> None:
    _job_id, [batch] = make_job(catalog, generation, ["a"])
    late = catalog.leases.acquire("aggregator", "a", 0)
    assert catalog.commit_results(late, [result(generation, batch, ["a"])]) == [True]
