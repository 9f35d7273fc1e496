"""Two clocks, told apart by answers that may be late on either way."""

from __future__ import annotations

import random

import pytest

from query_service.serving.server_clock import ServerClock


def looked(*looks: tuple[float, float, float]) -> ServerClock:
    clock = ServerClock()
    for look in looks:
        clock.looked(*look)
    return clock


def test_before_the_first_answer_nothing_is_known() -> None:
    assert ServerClock().unsure_seconds == float("inf")


def test_a_quick_answer_says_it_exactly_and_rather_too_early() -> None:
    clock = looked((10.0, 1010.001, 10.002))
    assert clock.unsure_seconds == pytest.approx(0.002, rel=0.01)
    assert clock.ours(1020.001) == pytest.approx(20.0, abs=0.0001)


def test_a_late_answer_takes_nothing_from_what_is_known_whichever_way_was_slow() -> None:
    quick, stalled, frozen = (10.0, 1010.0, 10.001), (11.0, 1016.0, 16.001), (17.0, 1017.0, 22.0)
    clock = looked(quick, stalled, frozen)
    assert clock.ours(1030.0) == pytest.approx(30.0, abs=0.02)
    assert clock.unsure_seconds < 0.05


def test_two_late_answers_of_opposite_ways_say_it_exactly_together() -> None:
    clock = looked((10.0, 1015.0, 15.001), (16.0, 1016.001, 21.0))
    assert clock.ours(1030.0) == pytest.approx(30.0, abs=0.02)


def test_a_clock_that_was_set_is_believed_anew() -> None:
    clock = looked((10.0, 1010.0, 10.001), (11.0, 4611.0, 11.001))
    assert clock.ours(4612.0) == pytest.approx(12.0, abs=0.01)


def test_clocks_that_part_slowly_stay_within_the_bounds() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, clock, now = random.Random(seed), ServerClock(), 0.0
    for _ in range(2000):
        now += chance.uniform(0, 20)
        asked, there = now, now + chance.choice([0.0002, 0.0002, 8.0]) * chance.random()
        now = there + chance.choice([0.0002, 0.0002, 8.0]) * chance.random()
        clock.looked(asked, 5000 + there * 1.0004, now)
        ours = clock.ours(5000 + now * 1.0004)
        assert now - clock.unsure_seconds - 1e-6 <= ours <= now + 1e-6
