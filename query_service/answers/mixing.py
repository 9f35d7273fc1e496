"""Several vectors to one: weights, negative ones too, and unit length. Knows numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import InvalidQuery
from storage.errors import InvalidVector
from storage.vector_checks import Vectors

# Of the sum of all weights. Below it float32 vectors (exact to 1e-7) have cancelled out so far that what is left
# points somewhere by chance; two pictures that a model thinks equal come as near as that.
_LEAST_LENGTH = 1e-4


def unit_vector(numbers: Sequence[float], dimension: int) -> Vectors:
    """The caller's own vector as (dimension,) float32 of unit length.

    Raises InvalidVector for another dimension, for NaN and infinity, and for a vector of zeros.
    """
    exact = np.asarray(numbers, dtype=np.float64)
    if exact.shape != (dimension,):
        raise InvalidVector(f"the collection's vectors have {dimension} numbers, this one has {exact.size}")
    largest = float(np.abs(exact).max())
    if not np.isfinite(largest):
        raise InvalidVector("the vector holds NaN or infinity")
    if largest == 0:
        raise InvalidVector("a vector of zeros points nowhere: nothing is near it")
    return _unit(exact / largest)  # the square of 1e200 would be infinite


def mix(vectors: Sequence[Vectors], weights: Sequence[float]) -> Vectors:
    """The weighted sum of (d,) float32 unit vectors, at unit length; a single one is returned to the bit.

    Raises InvalidQuery when they cancel each other out, so that nothing is left to look for.
    """
    if len(vectors) == 1 and weights[0] > 0:
        return vectors[0]
    total = np.zeros(vectors[0].shape, dtype=np.float64)
    for vector, weight in zip(vectors, weights, strict=True):
        exact = vector.astype(np.float64)
        total += weight / np.linalg.norm(exact) * exact
    if np.linalg.norm(total) <= _LEAST_LENGTH * sum(abs(weight) for weight in weights):
        raise InvalidQuery(
            "the parts of this query cancel each other out, so that nothing is left to look for: "
            "leave a part out, or give one of them another weight"
        )
    return _unit(total)


def _unit(exact: np.ndarray[Any, np.dtype[np.float64]]) -> Vectors:
    unit: Vectors = (exact / np.linalg.norm(exact)).astype(np.float32)
    return unit
