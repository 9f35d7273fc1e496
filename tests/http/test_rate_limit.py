"""The bucket of each caller: never more than it holds, refilled with time, in bounded memory."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from query_service.http import rate_limit
from query_service.http.rate_limit import RateLimit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_at_once_and_then_as_many_as_come_back():
    clock = Clock()
    limit = RateLimit(60, clock)
    assert [limit.wait_seconds("a") for _ in range(60)] == [0] * 60
    assert limit.wait_seconds("a") == 1
    clock.now += 1
    assert limit.wait_seconds("a") == 0
    assert limit.wait_seconds("a") == 1
    clock.now += 3600
    assert sum(limit.wait_seconds("a") == 0 for _ in range(100)) == 60


def test_after_the_told_seconds_the_request_is_allowed():
    clock = Clock()
    limit = RateLimit(7, clock)
    while not (seconds := limit.wait_seconds("a")):
        pass
    clock.now += seconds
    assert limit.wait_seconds("a") == 0


def test_callers_do_not_disturb_each_other():
    limit = RateLimit(1, Clock())
    assert [limit.wait_seconds(name) for name in ("a", "b", "a")] == [0, 0, 60]


def test_zero_means_no_limit():
    limit = RateLimit(0, Clock())
    assert {limit.wait_seconds("a") for _ in range(1000)} == {0}


def test_memory_is_bounded_and_those_who_asked_last_are_remembered(monkeypatch):
    monkeypatch.setattr(rate_limit, "MOST_CALLERS", 10)
    limit = RateLimit(1, Clock())
    for number in range(1000):
        limit.wait_seconds(f"address {number}")
    assert len(limit._full_at) == 10
    assert limit.wait_seconds("address 999") == 60


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=200))
def test_in_no_minute_more_than_the_bucket_and_what_came_back(per_minute, pauses):
    clock = Clock()
    limit = RateLimit(per_minute, clock)
    allowed: list[float] = []
    for pause in pauses:
        clock.now += pause
        if limit.wait_seconds("a") == 0:
            allowed.append(clock.now)
    for number, begin in enumerate(allowed):
        within = [moment for moment in allowed[number:] if moment - begin <= 60]
        assert len(within) <= 2 * per_minute + 1
