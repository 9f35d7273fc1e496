"""Cutting a lazy sequence into lists: for one worker all full, for several ever shorter at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.indexing.chunks import tapering_chunks


@pytest.mark.parametrize("count", [0, 1, 7, 8, 23, 24, 25, 128, 131])
@pytest.mark.parametrize(("size", "workers"), [(8, 1), (8, 2), (16, 4), (1, 3), (3, 2)])
def test_every_item_is_in_one_list_and_in_order(count: int, size: int, workers: int) -> None:
    lists = list(tapering_chunks(iter(range(count)), size, workers))
    assert [item for one in lists for item in one] == list(range(count))
    assert all(0 < len(one) <= size for one in lists)


def test_lists_are_full_until_the_end_is_seen_and_then_shorter_and_shorter() -> None:
    sizes = [len(one) for one in tapering_chunks(range(128), 8, 2)]
    assert sizes == [8] * 14 + [4, 3, 3, 2, 2, 2]


def test_one_worker_gets_full_lists_and_the_rest() -> None:
    assert [len(one) for one in tapering_chunks(range(20), 8, 1)] == [8, 8, 4]


def test_no_more_is_pulled_than_is_held_back() -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            pulled.append(item)
            yield item

    assert next(tapering_chunks(items(), 4, 2)) == [0, 1, 2, 3]
    assert len(pulled) == 4 * (2 + 1)
