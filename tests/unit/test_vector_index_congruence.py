"""Random operations on the vector index and on a brute force must agree, ties and duplicates included."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import vector_index
from storage.vector_index import VectorIndex

Vectors = np.ndarray[Any, np.dtype[np.float32]]
STEPS = 250


class BruteForce:
    """The reference: a dictionary of vectors, every distance computed, one sort."""

    def __init__(self) -> None:
        self.vectors: dict[str, Vectors] = {}

    def search(self, query: Vectors, k: int, allowed: set[str]) -> list[tuple[str, float]]:
        ids = [image_id for image_id in self.vectors if image_id in allowed]
        rows = np.array([self.vectors[image_id] for image_id in ids], dtype=np.float64).reshape(len(ids), len(query))
        distances = ((rows - query) ** 2).sum(axis=1) if ids else []
        found = zip(distances, ids, strict=True)
        return [(image_id, distance) for distance, image_id in sorted(found)[:k]]


def tied_vectors(rng: np.random.Generator, count: int) -> Vectors:
    """The 24 corners of the 24-cell: all distances are 0, 1, 2, 3 or 4, exact in any order of addition."""
    halves = np.array(np.meshgrid(*[[-0.5, 0.5]] * 4)).T.reshape(-1, 4)
    corners = np.concatenate([halves, np.eye(4), -np.eye(4)]).astype(np.float32)
    return corners[rng.integers(0, len(corners), count)]


def scattered_vectors(rng: np.random.Generator, count: int) -> Vectors:
    """Gaussian directions in 24 dimensions drawn from a pool of 40, so that exact duplicates are common."""
    pool = np.random.default_rng(1).standard_normal((40, 24))
    rows = np.where(rng.random((count, 1)) < 0.5, pool[rng.integers(0, 40, count)], rng.standard_normal((count, 24)))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Pair:
    """The index under test and the reference, given the same random operations."""

    def __init__(self, draw: Any, seed: int, folder: Path) -> None:
        self.choice = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.draw, self.folder = draw, folder
        self.index = VectorIndex(draw(self.numbers, 1).shape[1])
        self.brute = BruteForce()

    def some_ids(self, most: int, *, known: bool) -> list[str]:
        pool = sorted(self.brute.vectors) if known else [f"id{number}" for number in range(400)]
        return self.choice.sample(pool, min(self.choice.randint(0, most), len(pool)))

    def add(self) -> None:
        ids = [image_id for image_id in self.some_ids(40, known=False) if image_id not in self.brute.vectors]
        vectors = self.draw(self.numbers, len(ids))
        self.index.add_many(ids, vectors)
        self.brute.vectors.update(zip(ids, vectors, strict=True))

    def upsert(self) -> None:
        ids = self.some_ids(40, known=False)
        vectors = self.draw(self.numbers, len(ids))
        self.index.upsert_many(ids, vectors)
        self.brute.vectors.update(zip(ids, vectors, strict=True))

    def remove(self) -> None:
        ids = self.some_ids(25, known=True)
        self.index.remove_many(ids)
        for image_id in ids:
            del self.brute.vectors[image_id]

    def search(self) -> None:
        k = self.choice.choice([1, 2, 5, 17, 60, 1000])
        only = set(self.some_ids(200, known=False)) if self.choice.random() < 0.5 else None
        exclude = self.some_ids(20, known=False)
        allowed = (set(self.brute.vectors) if only is None else only) - set(exclude)
        query = self.draw(self.numbers, 1)[0]
        self.same(self.index.search(query, k, only=only, exclude=exclude), self.brute.search(query, k, allowed))

    def search_many(self) -> None:
        k = self.choice.choice([1, 3, 20])
        only = set(self.some_ids(200, known=False)) if self.choice.random() < 0.5 else None
        queries = self.draw(self.numbers, self.choice.choice([0, 1, 3, 40]))
        for query, hits in zip(queries, self.index.search_many(queries, k, only=only), strict=True):
            self.same(hits, self.brute.search(query, k, set(self.brute.vectors) if only is None else only))

    def search_by_id(self) -> None:
        for image_id in self.some_ids(1, known=True):
            allowed = set(self.brute.vectors) - {image_id}
            wanted = self.brute.search(self.brute.vectors[image_id], 8, allowed)
            self.same(self.index.search_by_id(image_id, 8), wanted)

    def reconstruct(self) -> None:
        ids = self.some_ids(30, known=True)
        for image_id, vector in zip(ids, self.index.reconstruct_many(ids), strict=True):
            assert np.array_equal(vector, self.brute.vectors[image_id])

    def save_and_load(self) -> None:
        self.index.save(self.folder)
        self.index = VectorIndex.load(self.folder)

    def same(self, hits: list[Any], wanted: list[tuple[str, float]]) -> None:
        assert [hit.image_id for hit in hits] == [image_id for image_id, _ in wanted]
        assert [hit.distance for hit in hits] == pytest.approx([distance for _, distance in wanted], abs=1e-14)


@pytest.mark.parametrize("draw", [tied_vectors, scattered_vectors])
@pytest.mark.parametrize("seed", range(4))
def test_random_operations_agree_with_a_brute_force(
    draw: Any, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "BLAS_THRESHOLD", 64)  # so that these small batches take the BLAS path too
    monkeypatch.setattr(vector_index, "GATHER_ROWS", 40)  # and single queries both ways of filtering
    pair = Pair(draw, seed, tmp_path)
    operations = [pair.add, pair.upsert, pair.remove, pair.search, pair.search_many, pair.search_by_id]
    operations += [pair.reconstruct]
    for step in range(STEPS):
        operation = pair.save_and_load if step % 50 == 49 else pair.choice.choice(operations)
        operation()
        assert len(pair.index) == len(pair.brute.vectors)
    assert sorted(pair.index.ids()) == sorted(pair.brute.vectors)
