"""Adding, replacing, removing and reading back vectors by their ids."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from made_vectors import DIMENSION, axis, index_of, model, unit_vectors

from storage.errors import (
    DuplicateImageId,
    UnknownImageId,
    VectorIndexError,
)
from storage.vector_index import Hit, VectorIndex


def test_a_new_index_is_empty_and_answers_with_nothing() -> None:
    index = VectorIndex()
    assert (len(index), index.dimension, index.ids(), index.model) == (0, 512, [], None)
    query = unit_vectors(1, 512)
    assert index.search(query[0]) == []
    assert index.search_many(query) == [[]]
    assert index.reconstruct_many([]).shape == (0, 512)


def test_distances_are_squared_and_a_vector_is_at_zero_from_itself() -> None:
    index = VectorIndex(DIMENSION)
    index.add_many(["same", "right angle", "opposite"], np.stack([axis(0), axis(1), axis(0, -1.0)]))
    assert index.search(axis(0)) == [Hit("same", 0.0), Hit("right angle", 2.0), Hit("opposite", 4.0)]


def test_lists_of_numbers_are_accepted_as_vectors() -> None:
    index = VectorIndex(2)
    index.add("a", [1, 0])
    index.add_many(["b", "c"], [[0.6, 0.8], np.array([0, 1], dtype=np.float32)])
    assert [hit.image_id for hit in index.search([1.0, 0.0])] == ["a", "b", "c"]


def test_empty_batches_do_nothing() -> None:
    index = index_of(3)
    index.add_many([], [])
    index.upsert_many([], np.empty((0, DIMENSION), dtype=np.float32))
    index.remove_many([])
    assert len(index) == 3
    assert index.search_many([]) == []


def test_adding_an_id_twice_is_refused_and_nothing_is_added() -> None:
    index = index_of(2)
    with pytest.raises(DuplicateImageId, match="'i0001' is in the index already"):
        index.add_many(["new", "i0001"], unit_vectors(2))
    for call in (index.add_many, index.upsert_many):
        with pytest.raises(DuplicateImageId, match="'new' is given twice"):
            call(["new", "other", "new"], unit_vectors(3))
    with pytest.raises(DuplicateImageId):
        index.add("i0000", axis(0))
    assert sorted(index.ids()) == ["i0000", "i0001"]


def test_upsert_adds_what_is_new_and_replaces_what_is_there() -> None:
    index = index_of(3)
    index.upsert_many(["new", "i0001"], np.stack([axis(3), axis(4)]))
    index.upsert("i0000", axis(5))
    assert len(index) == 4
    assert np.array_equal(index.reconstruct_many(["new", "i0001", "i0000"]), np.stack([axis(3), axis(4), axis(5)]))
    assert np.array_equal(index.reconstruct("i0002"), unit_vectors(3)[2])


def test_removing_leaves_every_other_vector_under_its_own_id() -> None:
    rows = unit_vectors(6)
    index = index_of(6)
    index.remove("i0005")
    index.remove_many(["i0000", "i0004", "i0001"])
    assert sorted(index.ids()) == ["i0002", "i0003"]
    assert "i0000" not in index
    assert "i0002" in index
    assert np.array_equal(index.reconstruct_many(["i0003", "i0002"]), rows[[3, 2]])
    index.add("again", rows[0])
    assert index.search(rows[0], 1) == [Hit("again", 0.0)]


def test_an_index_can_be_emptied_and_filled_again() -> None:
    index = index_of(4)
    index.remove_many(index.ids())
    assert index.search(axis(0)) == []
    index.add("a", axis(0))
    assert index.search(axis(0)) == [Hit("a", 0.0)]


def test_removing_an_unknown_id_removes_nothing() -> None:
    index = index_of(2)
    with pytest.raises(UnknownImageId, match="'nobody'"):
        index.remove_many(["i0000", "nobody"])
    with pytest.raises(DuplicateImageId):
        index.remove_many(["i0000", "i0000"])
    assert len(index) == 2


def test_unknown_ids_are_clear_errors_when_asked_for() -> None:
    index = index_of(2)
    for call in (index.reconstruct, index.search_by_id, index.remove):
        with pytest.raises(UnknownImageId, match="'nobody' is not in the index"):
            call("nobody")


def test_reconstruct_returns_a_copy() -> None:
    index = index_of(2)
    vector = index.reconstruct("i0000")
    vector[:] = 0
    assert np.array_equal(index.reconstruct("i0000"), unit_vectors(2)[0])
    assert vector.dtype == np.float32


def test_ids_are_counted_whatever_they_are() -> None:
    index = index_of(5)
    assert index.count(["i0001", "nobody", "i0002"]) == 2
    assert index.count({"i0001"}) == 1
    assert 7 not in index
    with pytest.raises(VectorIndexError, match="put it in a list"):
        index.count("i0001")


def test_the_model_must_fit_the_dimension() -> None:
    index = VectorIndex(DIMENSION, model=model())
    assert index.model == model()
    index.model = None
    with pytest.raises(VectorIndexError, match="8-d"):
        index.model = model(dimension=9)
    with pytest.raises(VectorIndexError):
        VectorIndex(4, model=model())


def test_threads_may_add_remove_search_and_save_at_once(tmp_path: Path) -> None:
    """FAISS alone crashes when searched while it grows; the lock makes each answer true of one moment."""
    index = index_of(200)
    fixed = [f"i{number:04d}" for number in range(200)]
    rows = unit_vectors(400, seed=6)
    done = threading.Event()
    answers: list[list[Hit]] = []

    def ask() -> None:
        while not done.is_set():
            answers.append(index.search(axis(0), 5, only=fixed))
            index.search_many(rows[:8], 3)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for thread in askers:
        thread.start()
    for number, row in enumerate(rows):
        index.upsert(f"n{number}", row)
        if number % 3 == 0:
            index.remove(f"n{number}")
        if number % 100 == 0:
            index.save(tmp_path)
    done.set()
    for thread in askers:
        thread.join()
    assert len(index) == 200 + 400 - 134
    assert answers
    assert all(answer == answers[0] for answer in answers)
    VectorIndex.load(tmp_path)
