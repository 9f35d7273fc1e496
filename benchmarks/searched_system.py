"""Seeded vectors in the catalog of a running system, and queries near them: what the search benchmarks ask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.embedders.baseline import BASELINE_NAME
from pipeline.embedding_service import EmbeddingService
from storage.catalog import Catalog, Generation, IndexBatch, IndexedImage
from storage.records import ImageMetadata, ModelIdentity

Vectors = np.ndarray[Any, np.dtype[np.float32]]

DIMENSION = 512
SEED = 20_261_124
_COMMIT = 1000  # images
_PLACES = 100  # vectors gather around so many points, as photos do; a query is nearest to its own neighbours
_AROUND = 0.8


def unit_vectors(count: int, seed: int = SEED) -> Vectors:
    """(count, 512) float32 of unit length around some points; the same for the same seed."""
    places = np.random.default_rng(SEED).standard_normal((_PLACES, DIMENSION), dtype=np.float32)
    random = np.random.default_rng(seed)
    rows: Vectors = places[random.integers(0, _PLACES, count)]
    rows += _AROUND * random.standard_normal((count, DIMENSION), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def queries(count: int) -> list[list[float]]:
    """Vectors to ask with, from the same distribution as those that are stored, and none of them."""
    return [[float(number) for number in row] for row in unit_vectors(count, SEED + 1)]


def baseline_model() -> ModelIdentity:
    """A real model's identity, so that pictures can be asked with too."""
    return EmbeddingService(BASELINE_NAME).identity


def fill(catalog: Catalog, name: str, vectors: Vectors) -> Generation:
    """A collection of this name that holds the vectors, each as an image with address and two attributes."""
    collection = catalog.collections.ensure(name)
    generation = catalog.generations.ensure_active(collection.id, baseline_model())
    for ids, rows in _blocks(vectors):
        commit(catalog, generation, ids, rows)
    return catalog.generations.get(generation.id)


def commit(catalog: Catalog, generation: Generation, ids: Sequence[str], rows: Vectors) -> int:
    """One transaction with these images; the generation's newest change."""
    upserts = [IndexedImage(_metadata(one), row) for one, row in zip(ids, rows, strict=True)]
    return catalog.commit(generation.id, IndexBatch(upserts=upserts))


def _blocks(vectors: Vectors) -> Iterator[tuple[list[str], Vectors]]:
    for start in range(0, len(vectors), _COMMIT):
        rows = vectors[start : start + _COMMIT]
        yield [f"photos/{number:07}.jpg" for number in range(start, start + len(rows))], rows


def _metadata(image_id: str) -> ImageMetadata:
    return ImageMetadata(
        image_id=image_id,
        source_uri=f"file:///data/{image_id}",
        etag="e",
        sha256=hashlib.sha256(image_id.encode()).hexdigest(),
        width=640,
        height=480,
        format="JPEG",
        bytes=60_000,
        attributes={"colour": ("red", "green", "blue")[sum(image_id.encode()) % 3], "year": 2000 + len(image_id)},
    )
