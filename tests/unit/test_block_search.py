"""The largest inner products over blocks and threads are those of one plain multiplication."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from storage import block_search
from storage.blas_threads import BlasThreads
from storage.block_search import Blocks, blas_threads, multiply, nearest_by_product, shared_out


def rows_and_queries(count: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, asked = rng.standard_normal((count, 16)), rng.standard_normal((queries, 16))
    return (rows / 4).astype(np.float32), (asked / 4).astype(np.float32)


def blocks_of(rows: np.ndarray, most: int) -> Blocks:
    return Blocks(cut(len(rows), most), lambda first, stop, *given: multiply(rows[first:stop], *given))


def cut(count: int, most: int) -> list[tuple[int, int]]:
    return [(first, min(first + most, count)) for first in range(0, count, most)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("queries", "wanted", "most"), [(1, 1, 7), (1, 100, 64), (5, 20, 16), (70, 9, 1000), (3, 499, 50)]
)
def test_blocks_and_threads_find_the_largest_products(
    monkeypatch: pytest.MonkeyPatch, threads: int, queries: int, wanted: int, most: int
) -> None:
    monkeypatch.setattr(block_search, "SHARED_NUMBERS", 0)
    monkeypatch.setattr(blas_threads(), "share", threads)
    rows, asked = rows_and_queries(500, queries, seed=most)
    products, places = nearest_by_product(blocks_of(rows, most), asked, wanted)
    every = asked @ rows.T
    assert np.allclose(products, -np.sort(-every, axis=1)[:, :wanted], atol=1e-6)
    assert np.allclose(np.take_along_axis(every, places, axis=1), products, atol=1e-6)
    assert all(len(set(row.tolist())) == wanted for row in places)


@pytest.mark.parametrize("queries", [1, 6])
def test_a_row_with_a_nan_is_never_found(queries: int) -> None:
    rows, asked = rows_and_queries(300, queries, seed=2)
    gone = np.random.default_rng(3).permutation(300)[:280]
    rows[gone, 0] = np.nan
    for most in (8, 1000):
        _, places = nearest_by_product(blocks_of(rows, most), asked, 20)
        for row in places:
            assert sorted(row.tolist()) == sorted(set(range(300)) - set(gone.tolist()))


def test_many_equal_products_are_as_many_as_wanted() -> None:
    rows, asked = np.ones((5000, 4), dtype=np.float32), np.ones((2, 4), dtype=np.float32)
    products, places = nearest_by_product(blocks_of(rows, 100), asked, 30)
    assert (products == 4).all()
    assert all(len(set(row.tolist())) == 30 for row in places)


@pytest.mark.parametrize("small_is_fast", [False, True])
@pytest.mark.parametrize(("rows", "queries", "dimension"), [(1000, 1, 512), (999, 16, 512), (200, 64, 512), (3, 2, 16)])
def test_products_are_the_same_in_one_piece_and_in_many(
    monkeypatch: pytest.MonkeyPatch, rows: int, queries: int, dimension: int, *, small_is_fast: bool
) -> None:
    monkeypatch.setattr(blas_threads(), "fast_small_products", small_is_fast)
    rng = np.random.default_rng(4)
    left, right = rng.standard_normal((rows, dimension)), rng.standard_normal((dimension, queries))
    out = np.full((rows, queries), np.nan, dtype=np.float32)
    multiply(left.astype(np.float32), right.astype(np.float32), out)
    assert np.allclose(out, left @ right, atol=1e-3)


def test_work_is_shared_out_once_each_and_its_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas_threads(), "share", 4)
    monkeypatch.setattr(block_search, "SHARED_NUMBERS", 0)
    cuts = cut(1000, 10)
    assert sorted(one for part in shared_out(list, cuts, 8) for one in part) == cuts
    together = threading.Barrier(4, timeout=120)

    def fail(left: Iterator[tuple[int, int]]) -> None:
        together.wait()
        raise MemoryError(next(left))

    with pytest.raises(MemoryError):
        shared_out(fail, cuts, 8)


def test_the_threads_of_blas_are_put_back_when_the_last_search_is_done() -> None:
    threads = BlasThreads()
    if threads._get is None:
        pytest.skip("this numpy's BLAS cannot be told how many threads to use")
    before = threads._get()
    with threads.one_each():
        with threads.one_each():
            assert threads._get() == 1
        assert threads._get() == 1
    assert threads._get() == before
    with pytest.raises(ZeroDivisionError), threads.one_each():
        raise ZeroDivisionError
    assert threads._get() == before
