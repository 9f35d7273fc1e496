"""Weighted mixes of vectors and the caller's own ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidQuery
from query_service.answers.mixing import mix, unit_vector
from storage.errors import InvalidVector


def axis(place: int, sign: int = 1) -> np.ndarray:
    return (sign * np.eye(3)[place]).astype(np.float32)


def test_one_vector_stays_what_it_is_to_the_bit() -> None:
    vector = unit_vector([0.1, 0.2, 0.3], 3)
    assert np.array_equal(mix([vector], [0.37]), vector)


def test_weights_are_directions_of_a_sum() -> None:
    mixed = mix([axis(0), axis(1), axis(2)], [3.0, 4.0, -12.0])
    assert mixed == pytest.approx(np.array([3, 4, -12]) / 13, abs=1e-7)
    assert mixed.dtype == np.float32


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=16), st.floats(0.01, 100))
def test_only_the_ratio_of_weights_counts(weights: list[float], factor: float) -> None:
    rng = np.random.default_rng(len(weights))
    vectors = [unit_vector(rng.random(8).tolist(), 8) for _ in weights]
    once, again = mix(vectors, weights), mix(vectors, [factor * weight for weight in weights])
    assert once == pytest.approx(again, abs=1e-6)
    assert np.linalg.norm(once) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("weights", [(1.0, -1.0), (5.0, -5.0), (100.0, -100.0)])
def test_parts_that_cancel_are_refused_with_what_to_do(weights: tuple[float, float]) -> None:
    with pytest.raises(InvalidQuery, match="cancel each other out.*leave a part out"):
        mix([axis(0), axis(0)], weights)


def test_nearly_equal_vectors_with_opposite_weights_leave_nothing_but_rounding() -> None:
    vector = unit_vector([1.0, 1e-7, 0.0], 3)
    with pytest.raises(InvalidQuery):
        mix([axis(0), vector], [1.0, -1.0])


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_a_vector_of_any_length_is_brought_to_unit_length(size: float) -> None:
    assert unit_vector([3 * size, 4 * size], 2) == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([0.0, 0.0], "zeros"), ([1.0], "have 2 numbers, this one has 1"), ([float("nan"), 1.0], "NaN or infinity")],
)
def test_vectors_that_point_nowhere_are_refused(numbers: list[float], message: str) -> None:
    with pytest.raises(InvalidVector, match=message):
        unit_vector(numbers, 2)
