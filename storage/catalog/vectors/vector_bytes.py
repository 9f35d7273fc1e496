"""Vectors as they lie in the database: little-endian float32, dimension x 4 bytes each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from storage.catalog.records import Vectors
from storage.errors import CatalogError
from storage.vector_checks import check_vectors

_STORED = np.dtype("<f4")


def pack_vectors(vectors: Sequence[Vectors], image_ids: Sequence[str], dimension: int) -> list[memoryview]:
    """Views of each vector's bytes. Raises InvalidVector unless all are float32, unit length, of the dimension."""
    rows = check_vectors(list(vectors), dimension, image_ids).astype(_STORED, copy=False)
    if not len(rows):
        return []
    data = rows.data.cast("B")
    size = dimension * _STORED.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def unpack_vectors(blobs: Sequence[bytes], dimension: int) -> Vectors:
    """The vectors as (n, dimension) float32, writable. Raises CatalogError when a row has another size."""
    size = dimension * _STORED.itemsize
    for found in set(map(len, blobs)) - {size}:
        raise CatalogError(f"the catalog is damaged: a vector of {found} bytes where {size} belong")
    joined = bytearray().join(blobs)  # one copy, and numpy may write into a bytearray
    return np.frombuffer(joined, dtype=_STORED).reshape(len(blobs), dimension).astype(np.float32, copy=False)
