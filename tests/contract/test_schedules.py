"""Schedules: each slot is run once, whichever of several beats runs it and whatever dies meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import pytest
from servers import wait_for

from storage.catalog import Catalog, tables
from storage.errors import CatalogError, CatalogUnavailable, SettingsError, StorageUnavailable
from storage.settings import Schedule
from workers import lease_keeper, schedules
from workers.schedules import Scheduler, next_slot, schedule_name

HOURLY = Schedule(cron="0 * * * *", action="sync", source="photos")


class Clock:
    """The time of all beats and of the leases; it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 11, 30, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def at(self, hour: int, minute: int, second: int = 0) -> None:
        self.now = self.now.replace(hour=hour, minute=minute, second=second)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(schedules, "_now", clock)
    monkeypatch.setattr("storage.catalog.queued.leases.shared_now", lambda _connection: clock())
    return clock


@pytest.fixture
def runs(clock: Clock) -> list[str]:
    return []


@pytest.fixture
def beat(catalog: Catalog, clock: Clock, runs: list[str]) -> Callable[[str], Scheduler]:
    def make(name: str) -> Scheduler:
        return Scheduler(catalog, [HOURLY], lambda _: runs.append(f"{name} {clock.now:%H:%M}"), name=name)

    return make


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", "2026-03-02 03:00"),
        ("*/15 * * * *", "2026-03-01 11:45"),
        ("30 11 * * *", "2026-03-02 11:30"),
        ("0 0 1 * *", "2026-04-01 00:00"),
        ("0 9 * * mon-fri", "2026-03-02 09:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
    ],
)
def test_the_next_slot_lies_behind_the_moment_in_utc(cron: str, expected: str) -> None:
    after = datetime(2026, 3, 1, 11, 30, tzinfo=timezone.utc)
    assert next_slot(cron, after) == datetime.fromisoformat(f"{expected}+00:00")


@pytest.mark.parametrize("cron", ["60 * * * *", "x * * * *", "* * * *", "*/0 * * * *", "* * * * funday"])
def test_what_is_no_cron_expression_is_refused_by_name(cron: str) -> None:
    with pytest.raises(SettingsError, match="is no cron expression"):
        next_slot(cron, datetime.now(timezone.utc))


def test_a_slot_is_run_once_by_one_of_two_beats(
    clock: Clock, beat: Callable[[str], Scheduler], runs: list[str]
) -> None:
    first, second = beat("first"), beat("second")
    for one in (first, second):
        one.tick()
    assert runs == []
    for hour in (12, 13, 14):
        for minute in (0, 1, 30, 59):
            clock.at(hour, minute, 30)
            for one in (second, first, second) if hour == 13 else (first, second, first):
                one.tick()
    assert runs == ["first 12:00", "second 13:00", "first 14:00"]


def test_a_beat_that_saw_a_slot_run_elsewhere_does_not_run_it_late(
    clock: Clock, beat: Callable[[str], Scheduler], runs: list[str]
) -> None:
    """Not in the last second before the next one either, in which leases of slots that were run end."""
    first, second = beat("first"), beat("second")
    clock.at(12, 0)
    for one in (first, second):
        one.tick()
    for second_of_the_minute in range(50, 60):
        clock.at(12, 59, second_of_the_minute)
        for one in (second, first, beat("new")):
            one.tick()
    assert runs == ["first 12:00"]
    clock.at(13, 0)
    for one in (second, first):
        one.tick()
    assert runs == ["first 12:00", "second 13:00"]


def test_a_restart_neither_repeats_a_slot_nor_loses_one(
    clock: Clock, beat: Callable[[str], Scheduler], runs: list[str]
) -> None:
    before = beat("before")
    clock.at(12, 0, 1)
    before.tick()
    clock.at(12, 0, 20)
    beat("restarted").tick()
    assert runs == ["before 12:00"]
    clock.at(13, 5)  # there was no beat at 13:00
    beat("late").tick()
    assert runs == ["before 12:00", "late 13:05"]


def test_slots_missed_for_long_are_left_out(clock: Clock, beat: Callable[[str], Scheduler], runs: list[str]) -> None:
    clock.at(12, 11)
    late = beat("late")
    late.tick()
    assert runs == []
    clock.at(16, 40)  # it was frozen: of four slots the newest is run
    late.tick()
    late.tick()
    assert runs == ["late 16:40"]
    clock.at(17, 0)
    late.tick()
    assert runs[1:] == ["late 17:00"]


def test_a_slot_whose_beat_was_killed_in_the_middle_is_run_by_another(
    catalog: Catalog, clock: Clock, beat: Callable[[str], Scheduler], runs: list[str]
) -> None:
    clock.at(12, 0)
    assert catalog.leases.acquire(schedule_name(HOURLY), "killed", schedules.RUN_SECONDS)
    other = beat("other")
    for minute, second in ((1, 0), (1, 59)):
        clock.at(12, minute, second)
        other.tick()
    assert runs == []
    clock.at(12, 2, 1)
    other.tick()
    assert runs == ["other 12:02"]


def held_until(catalog: Catalog) -> datetime:
    with catalog._database.read() as connection:
        return connection.execute(tables.leases.select()).one().expires_at


@contextmanager
def running(one: Scheduler, begun: threading.Event, go_on: threading.Event) -> Iterator[None]:
    """The block runs while this beat is in the middle of an action, which waits for its end."""
    thread = threading.Thread(target=one.tick)
    thread.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        go_on.set()
        thread.join(60)
        assert not thread.is_alive()


def test_an_action_of_any_length_is_run_by_one_beat(
    catalog: Catalog, clock: Clock, beat: Callable[[str], Scheduler], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For three quarters of an hour its lease is renewed while time goes on, a minute at a step."""
    monkeypatch.setattr(lease_keeper, "RENEWALS_PER_LEASE", 6000)  # the keeper's waits are real ones: 20 ms
    begun, go_on = threading.Event(), threading.Event()

    def act(_: Schedule) -> None:
        begun.set()
        assert go_on.wait(600)
        runs.append("long")

    clock.at(12, 0)
    others = [beat("second"), beat("third")]
    with running(Scheduler(catalog, [HOURLY], act, name="long"), begun, go_on):
        for minute in range(1, 46):
            clock.at(12, minute)
            wait_for(lambda: held_until(catalog) >= clock.now + timedelta(seconds=schedules.RUN_SECONDS - 1))
            for one in others:
                one.tick()
        assert runs == []
    for minute in range(45, 60):
        clock.at(12, minute, 59)
        for one in [*others, beat("new")]:
            one.tick()
    assert runs == ["long"]


def test_an_action_that_lasts_past_the_next_slot_is_over_before_that_one_is_run(
    catalog: Catalog, clock: Clock, beat: Callable[[str], Scheduler], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = beat("other")

    def act(_: Schedule) -> None:
        clock.at(13, 1)
        other.tick()
        runs.append(f"long until {clock.now:%H:%M}")

    clock.at(12, 0)
    monkeypatch.setattr(schedules, "RUN_SECONDS", 7200.0)  # stands for renewals
    Scheduler(catalog, [HOURLY], act, name="long").tick()
    assert runs == ["long until 13:01"]
    other.tick()
    assert runs == ["long until 13:01", "other 13:01"]


def test_a_beat_that_was_frozen_while_it_ran_a_slot_takes_nothing_from_the_one_that_took_over(
    catalog: Catalog, clock: Clock, beat: Callable[[str], Scheduler], runs: list[str]
) -> None:
    other = beat("other")

    def act(_: Schedule) -> None:
        clock.now += timedelta(seconds=schedules.RUN_SECONDS + 1)  # no time passed for its keeper
        other.tick()
        runs.append("frozen")

    clock.at(12, 0)
    frozen = Scheduler(catalog, [HOURLY], act, name="frozen")
    frozen.tick()
    assert runs == ["other 12:02", "frozen"]
    for minute in range(3, 60):
        clock.at(12, minute, 59)
        for one in (frozen, other, beat("new")):
            one.tick()
    assert runs == ["other 12:02", "frozen"]


def test_a_slot_that_was_run_while_the_database_went_away_is_not_run_again(
    catalog: Catalog, clock: Clock, beat: Callable[[str], Scheduler], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise CatalogUnavailable("no answer")

    one, other = beat("one"), beat("other")
    clock.at(12, 0)
    with monkeypatch.context() as outage:
        outage.setattr("storage.catalog.queued.leases.Leases.leave_to", away)
        with pytest.raises(CatalogUnavailable):
            one.tick()
    clock.at(12, 1)
    for both in (one, other):
        both.tick()
    clock.at(12, 30)
    for both in (other, one):
        both.tick()
    assert runs == ["one 12:00"]


def test_a_source_that_is_away_is_tried_again_after_a_minute_by_any_beat(catalog: Catalog, clock: Clock) -> None:
    tries: list[str] = []

    def fail_at_first(_: Schedule) -> None:
        tries.append(f"{clock.now:%H:%M:%S}")
        if len(tries) < 3:
            raise StorageUnavailable("the bucket does not answer")

    beats = [Scheduler(catalog, [HOURLY], fail_at_first, name=name) for name in "ab"]
    clock.at(12, 0)
    for _ in range(60):
        for one in beats:
            one.tick()
        clock.now += timedelta(seconds=10)
    assert tries == ["12:00:00", "12:01:00", "12:02:00"]


def test_what_no_retry_mends_waits_for_the_next_slot(catalog: Catalog, clock: Clock) -> None:
    tries: list[str] = []

    def refuse(_: Schedule) -> None:
        tries.append(f"{clock.now:%H:%M}")
        raise CatalogError("no such thing")

    one = Scheduler(catalog, [HOURLY], refuse, name="one")
    for hour, minute in ((12, 0), (12, 1), (12, 30), (13, 0)):
        clock.at(hour, minute)
        one.tick()
    assert tries == ["12:00", "13:00"]


def test_without_schedules_nothing_happens(catalog: Catalog) -> None:
    Scheduler(catalog, [], lambda _: None, name="idle").tick()
