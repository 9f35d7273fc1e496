"""Schedules: each slot is run once, whichever of several beats runs it and whatever dies meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from storage.catalog import Catalog
from storage.errors import CatalogError, SettingsError, StorageUnavailable
from storage.settings import Schedule
from workers import schedules
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
    monkeypatch.setattr("storage.catalog.leases.now", clock)
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
    for minute in (1, 9):
        clock.at(12, minute)
        other.tick()
    assert runs == []
    clock.at(12, 11)
    other.tick()
    assert runs == ["other 12:11"]


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
