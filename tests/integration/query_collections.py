"""Collections for tests of the query worker: vectors that follow from names, of a model that nobody has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from storage.catalog import Catalog, Generation, IndexBatch, IndexedImage
from storage.records import ImageMetadata, ModelIdentity

# The fingerprints are nobody's: it cannot be loaded, and that is found out without loading torch
MODEL = ModelIdentity(
    name="baseline", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=8
)
OTHER = MODEL.model_copy(update={"weights_fingerprint": "other"})


def vector(name: str) -> np.ndarray:
    """(8,) float32, unit length."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    row = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return row / np.linalg.norm(row)


def image(name: str, row: np.ndarray) -> IndexedImage:
    """What a worker would make of an image with this id and vector."""
    return IndexedImage(
        ImageMetadata(
            image_id=name,
            source_uri=f"file:///{name}",
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            width=8,
            height=8,
            format="JPEG",
            bytes=100,
        ),
        row,
    )


def store(catalog: Catalog, generation: Generation, names: Sequence[str], salt: str = "") -> int:
    """Commit images whose vectors follow from name and salt; the generation's newest number."""
    return catalog.commit(generation.id, IndexBatch(upserts=[image(name, vector(name + salt)) for name in names]))
