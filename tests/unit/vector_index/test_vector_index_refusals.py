"""What an index refuses: dimensions, numbers, vectors and ids that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_vectors import DIMENSION, axis, index_of, unit_vectors

from storage.errors import (
    InvalidVector,
    VectorIndexError,
)
from storage.vector_index import VectorIndex


@pytest.mark.parametrize("dimension", [0, -1, 2.5, "512", True, None])
def test_a_dimension_that_is_no_positive_whole_number_is_refused(dimension: Any) -> None:
    with pytest.raises(VectorIndexError, match="whole number"):
        VectorIndex(dimension)


@pytest.mark.parametrize("k", [0, -3, 1.5, "10", True, None])
def test_a_k_that_is_no_positive_whole_number_is_refused(k: Any) -> None:
    with pytest.raises(VectorIndexError, match="k, the number of hits"):
        index_of(2).search(axis(0), k)


def test_a_numpy_integer_may_be_k() -> None:
    assert len(index_of(5).search(axis(0), np.int64(2))) == 2  # type: ignore[arg-type]


BAD_VECTORS = {
    "float64": (axis(0).astype(np.float64), "float32"),
    "float64 arrays in a list": ([axis(0).astype(np.float64)], "float32"),
    "float16": (axis(0).astype(np.float16), "float32"),
    "swapped bytes": (axis(0).astype(">f4"), "float32"),
    "too short": (axis(0)[:4], "shape"),
    "a matrix": (np.stack([axis(0), axis(1)]), "shape"),
    "a number": (1.0, "shape"),
    "NaN": (axis(0) * np.float32("nan"), "NaN"),
    "infinity": (axis(0, np.inf), "NaN or infinity"),
    "a number beyond float32": ([1e300, *[0.0] * 7], "NaN or infinity"),
    "squares beyond float32": (axis(0, 3e38), "length"),
    "zero": (np.zeros(DIMENSION, dtype=np.float32), "length 0"),
    "not unit length": (axis(0, 1.01), "length 1.01"),
    "words": (["x"] * DIMENSION, "numbers"),
    "truth values": ([True] + [False] * 7, "numbers"),
    "None": (None, "numbers"),
    "ragged": ([[1.0], [1.0, 0.0]], "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_a_bad_vector_is_refused_everywhere_and_changes_nothing(case: str) -> None:
    vector, message = BAD_VECTORS[case]
    index = index_of(3)
    before = index.reconstruct_many(index.ids())
    for call in (index.add, index.upsert):
        with pytest.raises(InvalidVector, match=message):
            call("i0001x", vector)
    with pytest.raises(InvalidVector, match=message):
        index.search(vector)
    assert np.array_equal(index.reconstruct_many(index.ids()), before)


def test_lengths_within_a_thousandth_of_one_are_accepted() -> None:
    index = VectorIndex(DIMENSION)
    index.add_many(["short", "long"], np.stack([axis(0, 0.9991), axis(1, 1.0009)]))
    assert len(index) == 2


def test_the_bad_row_of_a_batch_is_named_and_none_is_added() -> None:
    index = index_of(3)
    rows = unit_vectors(3, seed=1)
    rows[1] *= 2
    with pytest.raises(InvalidVector, match="'dog'"):
        index.add_many(["cat", "dog", "cow"], rows)
    with pytest.raises(InvalidVector, match="row 1"):
        index.search_many(rows)
    with pytest.raises(InvalidVector, match="2 image ids but 3 vectors"):
        index.upsert_many(["cat", "dog"], unit_vectors(3))
    with pytest.raises(InvalidVector, match=r"shape \(n, 8\)"):
        index.search_many(np.empty((0, 3), dtype=np.float32))
    assert len(index) == 3


@pytest.mark.parametrize("image_id", ["", None, 7, b"x"])
def test_an_id_that_is_no_filled_string_is_refused(image_id: Any) -> None:
    index = index_of(1)
    for call in (index.add, index.upsert):
        with pytest.raises(VectorIndexError, match="non-empty string"):
            call(image_id, axis(0))
    assert len(index) == 1


def test_one_string_is_not_taken_for_a_list_of_ids() -> None:
    index = index_of(3)
    for call in (
        lambda: index.add_many("ab", unit_vectors(2)),
        lambda: index.remove_many("ab"),
        lambda: index.reconstruct_many("ab"),
        lambda: index.search(axis(0), only="ab"),
        lambda: index.search(axis(0), exclude="ab"),
    ):
        with pytest.raises(VectorIndexError, match="put it in a list"):
            call()
