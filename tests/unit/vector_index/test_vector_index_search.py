"""Exact search: size of pages, filters, ties, batches."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest
from made_vectors import DIMENSION, SEED, axis, index_of, unit_vectors

from storage import exact_search, vector_index
from storage.vector_index import Hit, VectorIndex


def test_search_by_id_leaves_itself_out_unless_asked() -> None:
    index = index_of(30)
    assert index.search_by_id("i0003", 1, exclude_query=False) == [Hit("i0003", 0.0)]
    hits = index.search_by_id("i0003", 40)
    assert len(hits) == 29
    assert "i0003" not in [hit.image_id for hit in hits]
    index.add("twin", index.reconstruct("i0003"))
    assert index.search_by_id("i0003", 1) == [Hit("twin", 0.0)]


@pytest.mark.parametrize("k", [1, 5, 300, 10**12])
def test_k_beyond_the_size_returns_everything_and_never_pads(k: int) -> None:
    index = index_of(200)
    hits = index.search(axis(0), k)
    assert len(hits) == len({hit.image_id for hit in hits}) == min(k, 200)
    assert index.search_many([axis(0)], k) == [hits]


def test_only_and_exclude_ignore_ids_that_are_not_there() -> None:
    index = index_of(50)
    chosen = ["i0001", "i0002", "i0003", "nobody"]
    hits = index.search(axis(0), only=chosen, exclude={"i0002", "no one"})
    assert sorted(hit.image_id for hit in hits) == ["i0001", "i0003"]
    assert index.search(axis(0), only=[]) == []
    assert index.search_many([axis(0)], only={"nobody"}) == [[]]


def test_every_way_of_filtering_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered rows (one block or several), a bitmap, a list and many excluded ids answer as a plain ranking."""
    index = index_of(600)
    queries = unit_vectors(5, seed=3)
    chosen = [f"i{number:04d}" for number in range(0, 600, 2)]
    others = [f"i{number:04d}" for number in range(1, 600, 2)]
    wanted = [[hit for hit in hits if hit.image_id in set(chosen)][:7] for hits in index.search_many(queries, 600)]
    assert index.search_many(queries, 7, only=chosen) == wanted
    assert [index.search(query, 7, only=chosen) for query in queries] == wanted
    assert [index.search(query, 7, exclude=others) for query in queries] == wanted
    monkeypatch.setattr(exact_search, "WIDE_FILTER", 0.9)  # other limits take the paths of other collections
    monkeypatch.setattr(exact_search, "GATHERED_ROWS", 70)
    monkeypatch.setattr(vector_index, "MOST_SKIPPED", 10)
    assert index.search_many(queries, 7, only=chosen) == wanted
    assert [index.search(query, 7, only=chosen) for query in queries] == wanted
    assert [index.search(query, 7, exclude=others) for query in queries] == wanted


@pytest.mark.parametrize("share", [0.0005, 0.1, 0.7])
@pytest.mark.parametrize("kind", [set, frozenset, list, dict.fromkeys])
def test_ids_to_search_among_are_found_however_many_they_are(share: float, kind: Any) -> None:
    index = index_of(3000)
    chosen = [f"i{number:04d}" for number in np.random.default_rng(5).permutation(3000)[: 1 + int(share * 3000)]]
    hits = index.search(axis(0), 3000, only=kind([*chosen, "nobody"]))
    assert sorted(hit.image_id for hit in hits) == sorted(chosen)


def test_ties_are_ordered_by_id_also_at_the_cut_whatever_the_insertion_order() -> None:
    ids = [f"t{number:04d}" for number in range(500)]
    vectors = np.concatenate([np.tile(axis(0), (400, 1)), np.tile(axis(1), (100, 1))])
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(500)
        index = VectorIndex(DIMENSION)
        index.add_many([ids[place] for place in order], vectors[order])
        assert index.search(axis(0), 10) == [Hit(image_id, 0.0) for image_id in ids[:10]]
        assert [hit.image_id for hit in index.search(axis(0), 405)] == ids[:405]
        assert index.search_by_id("t0003", 3) == [Hit("t0000", 0.0), Hit("t0001", 0.0), Hit("t0002", 0.0)]
        assert index.search_many([axis(1)] * 3, 2) == [[Hit("t0400", 0.0), Hit("t0401", 0.0)]] * 3


@pytest.mark.parametrize("dimension", [1, 2, 3, 100, 512, 768])
def test_a_batch_answers_to_the_last_bit_as_single_queries_do(dimension: int) -> None:
    index = index_of(400, dimension)
    queries = unit_vectors(70, dimension, seed=4)
    assert index.search_many(queries, 9) == [index.search(query, 9) for query in queries]


def test_near_ties_that_float32_cannot_tell_apart_are_ordered_exactly() -> None:
    """FAISS's own distances put most of these in another order, and leave right ones out at the cut."""
    noise = np.random.default_rng(SEED).standard_normal((1500, 512)) * 1e-6 / np.sqrt(512)
    rows = (unit_vectors(1, 512) + noise).astype(np.float32)
    index = VectorIndex(512)
    index.add_many([f"n{number:04d}" for number in range(1500)], rows)
    queries = unit_vectors(10, 512, seed=9)
    wanted = [hits[:20] for hits in index.search_many(queries, 1500)]  # all of them: FAISS has no say
    exact = ((rows.astype(np.float64) - queries[0]) ** 2).sum(axis=1)
    assert [hit.distance for hit in wanted[0]] == pytest.approx(np.sort(exact)[:20], abs=1e-14)
    assert index.search_many(queries, 20) == wanted
    assert [index.search(query, 20) for query in queries] == wanted


@pytest.mark.parametrize("deviation", [1e-6, 9e-4])
def test_vectors_of_slightly_different_lengths_are_ranked_by_distance_not_by_angle(deviation: float) -> None:
    """The engine compares angles; what lengths can change is looked at again, exactly."""
    rng = np.random.default_rng(SEED)
    rows = unit_vectors(2000, 64) * (1 + deviation * rng.uniform(-1, 1, (2000, 1)).astype(np.float32))
    rows[1000:] = rows[:1000] * (1 + deviation * rng.uniform(-0.1, 0.1, (1000, 1)).astype(np.float32))
    index = VectorIndex(64)
    index.add_many([f"n{number:04d}" for number in range(2000)], rows)
    queries = unit_vectors(10, 64, seed=9)
    answers = index.search_many(queries, 25)
    for query, hits in zip(queries, answers, strict=True):
        exact = ((rows.astype(np.float64) - query) ** 2).sum(axis=1)
        assert [hit.image_id for hit in hits] == [f"n{number:04d}" for number in np.argsort(exact, kind="stable")[:25]]
    assert [index.search(query, 25) for query in queries] == answers


def test_a_batch_beyond_the_memory_limit_is_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(300)
    queries = unit_vectors(40, seed=5)
    wanted = index.search_many(queries, 4)
    monkeypatch.setattr(exact_search, "MAX_FETCHED", 100)
    assert index.search_many(queries, 4) == wanted
    monkeypatch.undo()
    monkeypatch.setattr(exact_search, "MAX_QUERIES", 7)
    assert index.search_many(queries, 4) == wanted


def test_the_thread_count_of_faiss_is_put_back_after_a_single_query() -> None:
    before = faiss.omp_get_max_threads()
    index_of(50).search(axis(0), 3)
    assert faiss.omp_get_max_threads() == before
