"""Seeded unit vectors, and indexes that hold them."""

from __future__ import annotations

from typing import Any

import numpy as np

from storage.records import ModelIdentity
from storage.vector_index import VectorIndex

DIMENSION = 8


SEED = 20240501


def unit_vectors(count: int, dimension: int = DIMENSION, seed: int = SEED) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def axis(position: int, sign: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[position] = sign
    return vector


def index_of(count: int, dimension: int = DIMENSION) -> VectorIndex:
    index = VectorIndex(dimension)
    index.add_many([f"i{number:04d}" for number in range(count)], unit_vectors(count, dimension))
    return index


def model(name: str = "m", dimension: int = DIMENSION) -> ModelIdentity:
    return ModelIdentity(
        name=name, revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=dimension
    )
