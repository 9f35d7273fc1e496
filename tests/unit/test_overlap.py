"""The step runner: order, bounds, laziness, errors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.indexing.overlap import Window, overlap


def _one(_item: int) -> int:
    return 1


def test_results_come_in_the_order_of_their_inputs_although_steps_finish_in_another():
    def step(item: int) -> int:
        time.sleep(0.002 * (5 - item % 5))
        return item * 10

    with ThreadPoolExecutor(4) as pool:
        results = list(overlap(pool, step, range(20), Window(8, 100), _one))
    assert results == [item * 10 for item in range(20)]


def test_inputs_are_pulled_no_further_ahead_than_the_window():
    pulled = []

    def inputs():
        for item in range(100):
            pulled.append(item)
            yield item

    with ThreadPoolExecutor(2) as pool:
        stream = overlap(pool, lambda item: item, inputs(), Window(4, 1000), _one)
        assert next(stream) == 0
    assert len(pulled) == 5  # the window, and the one that made room


def test_later_steps_run_while_the_consumer_is_busy():
    started = threading.Event()

    def step(item: int) -> int:
        if item == 1:
            started.set()
        return item

    with ThreadPoolExecutor(2) as pool:
        stream = overlap(pool, step, range(3), Window(2, 10), _one)
        assert next(stream) == 0
        assert started.wait(120)


def test_the_weight_in_flight_stays_within_the_budget():
    in_flight, highest, lock = 0, 0, threading.Lock()

    def step(weight: int) -> int:
        nonlocal in_flight, highest
        with lock:
            in_flight += weight
            highest = max(highest, in_flight)
        time.sleep(0.002)
        with lock:
            in_flight -= weight
        return weight

    with ThreadPoolExecutor(8) as pool:
        list(overlap(pool, step, [40, 30, 50, 20, 60, 10, 40] * 3, Window(50, 100), lambda weight: weight))
    assert highest <= 100


def test_an_item_heavier_than_the_whole_budget_still_goes_through():
    with ThreadPoolExecutor(2) as pool:
        assert list(overlap(pool, lambda weight: weight, [5, 500, 5], Window(8, 100), lambda w: w)) == [
            5,
            500,
            5,
        ]


def test_an_error_of_a_step_arrives_at_that_items_place():
    def step(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    with ThreadPoolExecutor(2) as pool:
        stream = overlap(pool, step, range(5), Window(3, 100), _one)
        assert [next(stream), next(stream)] == [0, 1]
        with pytest.raises(ValueError, match="item 2"):
            next(stream)
