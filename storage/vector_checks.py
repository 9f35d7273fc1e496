"""What may enter the vector index: our own checks of ids, shape, dtype, finiteness and length.

Knows no FAISS, which itself answers a wrong dimension with a bare AssertionError, takes float64 and duplicate
ids silently, and stores NaN vectors that no search ever finds.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from storage.errors import DuplicateImageId, InvalidVector, VectorIndexError

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Positions = np.ndarray[Any, np.dtype[np.int64]]  # row numbers inside the index

_MOST_HITS = 2**40  # more than any index holds, and a few times as many still fit into int64
UNIT_TOLERANCE = 1e-3  # how far a length may be from 1: half-precision models round to about 5e-4


def check_dimension(dimension: int) -> int:
    """Return the dimension. Raises VectorIndexError unless it is a whole number of at least 1."""
    return _check_count(dimension, "the dimension of an index")


def check_k(k: int) -> int:
    """Return k, the number of hits wanted. Raises VectorIndexError unless it is a whole number above 0."""
    return _check_count(k, "k, the number of hits wanted,")


def check_ks(ks: int | list[int], queries: int) -> Positions:
    """Return how many hits each of so many queries wants, (queries,) int64, from one k for all or one for each.

    Raises VectorIndexError as `check_k` does, and when there are not as many as queries.
    """
    if not isinstance(ks, list):
        return np.full(queries, min(check_k(ks), _MOST_HITS), dtype=np.int64)
    if len(ks) != queries:
        message = f"{queries} query vectors but {len(ks)} values of k: they must be as many"
        raise VectorIndexError(message)
    return np.array([min(check_k(k), _MOST_HITS) for k in ks], dtype=np.int64)


def _check_count(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        message = f"{name} is a whole number of at least 1, got {value!r}"
        raise VectorIndexError(message)
    return number


def check_ids(image_ids: Iterable[str]) -> list[str]:
    """Return the ids as plain strings, in order.

    Raises VectorIndexError when one is empty or no string, and DuplicateImageId when one is given twice.
    """
    ids = list(check_id_collection(image_ids, "image ids"))
    for image_id in ids:
        if not isinstance(image_id, str) or not image_id:
            message = f"an image id is a non-empty string, got {image_id!r}"
            raise VectorIndexError(message)
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        message = f"image id {twice!r} is given twice in one call"
        raise DuplicateImageId(message)
    return [str(image_id) for image_id in ids]  # str subclasses such as numpy's become plain


def check_id_collection(image_ids: Iterable[str], name: str) -> Iterable[str]:
    """Return the ids. Raises VectorIndexError for one bare string, which would be read letter by letter."""
    if isinstance(image_ids, (str, bytes)):
        message = f"{name} are a list of strings, got the single value {image_ids!r}: put it in a list"
        raise VectorIndexError(message)
    return image_ids


def check_vector(vector: Any, dimension: int, name: str) -> Vectors:
    """Return one vector as (1, dimension) float32. Raises InvalidVector as `check_vectors` does."""
    row = _as_float32(vector, name)
    if row.ndim != 1:
        message = f"{name}: one vector of {dimension} numbers is wanted, got shape {row.shape}"
        raise InvalidVector(message)
    return check_vectors(row[np.newaxis], dimension, [name])


def check_vectors(vectors: Any, dimension: int, names: Sequence[str] | None = None) -> Vectors:
    """Return the vectors as (n, dimension) float32, contiguous; `names` say in errors which row is meant.

    Arrays must be float32 already (a float64 array is a sign of a step left out); lists of numbers are
    converted. Raises InvalidVector for another dtype or shape, for NaN or infinity, for a length off 1 by
    more than 1e-3, and when there are not as many vectors as names.
    """
    rows = _as_float32(vectors, "vectors")
    if rows.shape == (0,):
        rows = rows.reshape(0, dimension)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        message = f"vectors must have shape (n, {dimension}), got {rows.shape}"
        raise InvalidVector(message)
    if names is not None and len(names) != len(rows):
        message = f"{len(names)} image ids but {len(rows)} vectors: they must be as many"
        raise InvalidVector(message)
    _check_lengths(rows, names)
    return np.ascontiguousarray(rows)


def _as_float32(vectors: Any, name: str) -> Vectors:
    try:
        array = np.asarray(vectors)
    except (TypeError, ValueError) as error:
        message = f"{name}: cannot be read as rows of numbers: {error}"
        raise InvalidVector(message) from error
    parts = vectors if isinstance(vectors, (list, tuple)) else [array] if array.ndim else []
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != np.float32:
            message = f"{name}: arrays must be float32, got {part.dtype}: convert with .astype(numpy.float32)"
            raise InvalidVector(message)
    if array.dtype.kind not in "fiu":
        message = f"{name}: numbers are wanted, got {array.dtype}"
        raise InvalidVector(message)
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused for that
        return array.astype(np.float32, copy=False)


def _check_lengths(rows: Vectors, names: Sequence[str] | None) -> None:
    with np.errstate(all="ignore"):  # NaN and infinity are refused just below
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        good = np.abs(lengths - 1.0) <= UNIT_TOLERANCE  # False for NaN too
    if good.all():
        return
    row = int(np.flatnonzero(~good)[0])
    name = f"row {row}" if names is None else repr(names[row])
    if not np.isfinite(rows[row]).all():
        message = f"the vector of {name} holds NaN or infinity"
    else:
        message = f"the vector of {name} has length {lengths[row]:.6g}: vectors must be of unit length"
    raise InvalidVector(message)
