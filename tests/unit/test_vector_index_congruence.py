"""Random operations on the vector index and on a brute force must agree, ties and duplicates included.

Saving, loading, going on from a mapped snapshot and compaction are operations like all others.
"""

from __future__ import annotations

import random
import secrets
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import block_search, exact_search, row_store, vector_index
from storage.images.local import LocalStorage
from storage.index_manifest import Manifest
from storage.snapshot_files import SnapshotFiles
from storage.vector_index import VectorIndex

Vectors = np.ndarray[Any, np.dtype[np.float32]]
STEPS = 180


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


def mapped_again(index: VectorIndex, folder: Path, part_bytes: int, *, checked: bool) -> VectorIndex:
    """The index as it comes back from a snapshot; `checked`: its files are known to be whole."""
    files = SnapshotFiles(LocalStorage(folder), f"{secrets.token_hex(4)}-")
    with index.reading() as live:
        manifest = Manifest(
            dimension=index.dimension,
            count=len(index),
            model=None,
            files=files.write_vectors(live, part_bytes),
            created_at=datetime.now(timezone.utc),
        )
    if checked:
        files.remember_checked(files.marks(manifest))
    return VectorIndex.mapped(files.open_vectors(manifest))


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

    def publish_and_map(self) -> None:
        part_bytes = 4 * self.index.dimension * self.choice.choice([1, 7, 50, 1000])
        self.index = mapped_again(self.index, self.folder / "shots", part_bytes, checked=self.choice.random() < 0.5)

    def remove_most(self) -> None:
        """So many at once that the rest is copied together."""
        gone = self.choice.sample(sorted(self.brute.vectors), len(self.brute.vectors) * 3 // 4)
        self.index.remove_many(gone)
        for image_id in gone:
            del self.brute.vectors[image_id]

    def same(self, hits: list[Any], wanted: list[tuple[str, float]]) -> None:
        assert [hit.image_id for hit in hits] == [image_id for image_id, _ in wanted]
        assert [hit.distance for hit in hits] == pytest.approx([distance for _, distance in wanted], abs=1e-14)


@pytest.mark.parametrize("draw", [tied_vectors, scattered_vectors])
@pytest.mark.parametrize("seed", range(4))
def test_random_operations_agree_with_a_brute_force(
    draw: Any, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_search, "GATHERED_ROWS", 40)
    monkeypatch.setattr(vector_index, "MOST_SKIPPED", 10)
    monkeypatch.setattr(vector_index, "COMPACT_HOLES", 20)
    monkeypatch.setattr(row_store, "_SELECT_ROWS", 24)
    monkeypatch.setattr(block_search, "SMALLEST_BLOCK_ROWS", 16)  # and even small indexes have many blocks,
    monkeypatch.setattr(block_search, "LARGEST_BLOCK_ROWS", 48)
    monkeypatch.setattr(block_search, "SHARED_NUMBERS", 0)  # shared out among threads
    monkeypatch.setattr(block_search.blas_threads(), "share", 1 + seed % 3)
    pair = Pair(draw, seed, tmp_path)
    operations = [pair.add, pair.upsert, pair.remove, pair.search, pair.search_many, pair.search_by_id]
    operations += [pair.reconstruct]
    for step in range(STEPS):
        seldom = {29: pair.publish_and_map, 59: pair.publish_and_map, 79: pair.save_and_load, 99: pair.remove_most}
        operation = seldom.get(step % 100) or pair.choice.choice(operations)
        operation()
        assert len(pair.index) == len(pair.brute.vectors)
        assert pair.index.count([f"id{number}" for number in range(400)]) == len(pair.brute.vectors)
    assert sorted(pair.index.ids()) == sorted(pair.brute.vectors)


@pytest.mark.parametrize("seed", range(2))
def test_a_changed_snapshot_of_many_rows_agrees_with_a_brute_force(seed: int, tmp_path: Path) -> None:
    """The real sizes of blocks, parts and filters: 20,000 rows, a tenth of them replaced or removed, some added."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((20_000, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = VectorIndex(24)
    index.add_many([f"p{number}" for number in range(18_000)], rows[:18_000])
    index = mapped_again(index, tmp_path, 512 * 1024, checked=bool(seed))
    known = {f"p{number}": rows[number] for number in range(18_000)}
    chosen = rng.permutation(18_000)
    gone, replaced = [f"p{number}" for number in chosen[:1500]], [f"p{number}" for number in chosen[1500:3000]]
    index.remove_many(gone)
    index.upsert_many(replaced, rows[-1500:])
    index.add_many([f"new{number}" for number in range(2000)], rows[18_000:])  # the first of them fill the holes
    known |= dict(zip(replaced, rows[-1500:], strict=True))
    known |= {f"new{number}": row for number, row in enumerate(rows[18_000:])}
    for image_id in gone:
        del known[image_id]
    ids, matrix = np.array(list(known)), np.stack(list(known.values())).astype(np.float64)
    queries = np.concatenate([rows[chosen[:5]], rng.permutation(rows)[:35] * np.float32(0.9995)])
    distances = [((matrix - query) ** 2).sum(axis=1) for query in queries]

    def wanted(query: int, k: int, among: Any) -> list[str]:
        pairs = sorted(zip(distances[query][among].tolist(), ids[among].tolist(), strict=True))
        return [image_id for _, image_id in pairs[:k]]

    every = np.arange(len(ids))
    filters = {size: np.sort(rng.choice(len(ids), size, replace=False)) for size in (30, 3000, 9000, 17_000)}
    for query, hits in enumerate(index.search_many(queries, 12)):
        assert [hit.image_id for hit in hits] == wanted(query, 12, every)
        if query < 6:
            assert index.search(queries[query], 12) == hits
            excluded = [hit.image_id for hit in hits[:9]]
            assert index.search(queries[query], 3, exclude=excluded) == hits[9:]
    for among in filters.values():
        only = set(ids[among].tolist())
        answers = index.search_many(queries[:20], 12, only=only)
        for query, hits in enumerate(answers):
            assert [hit.image_id for hit in hits] == wanted(query, 12, among)
        assert [index.search(query, 12, only=only) for query in queries[:4]] == answers[:4]
    assert index.search(queries[0], 10**6)[-1].image_id == wanted(0, 10**6, every)[-1]
