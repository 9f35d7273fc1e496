"""What the catalog tests commit: seeded vectors, images with fixed metadata, failures, and a follower."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone

import numpy as np

from storage.catalog import Catalog, Generation, ImageFailure, IndexedImage, tables
from storage.records import Attributes, ImageMetadata, ModelIdentity

MODEL = ModelIdentity(
    name="baseline", revision="builtin", weights_fingerprint="w1", preprocessing_fingerprint="p1", dimension=8
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def vector(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return row / np.linalg.norm(row)


def metadata(image_id: str, content: str = "", attributes: Attributes | None = None) -> ImageMetadata:
    return ImageMetadata(
        image_id=image_id,
        source_uri=f"file:///photos/{image_id}",
        etag="etag-1",
        sha256=sha256(content or image_id),
        width=640,
        height=480,
        format="JPEG",
        bytes=12345,
        attributes=attributes or {},
    )


def indexed(image_id: str, seed: int = 0, content: str = "", attributes: Attributes | None = None) -> IndexedImage:
    return IndexedImage(metadata(image_id, content, attributes), vector(seed))


def failure(image_id: str, reason: str = "corrupt") -> ImageFailure:
    return ImageFailure(image_id, f"file:///photos/{image_id}", reason, "cut off", etag="etag-1")


def add_generation(catalog: Catalog, generation: Generation, state: str) -> int:
    """A second generation, as a reindex makes it (which this version of the catalog does not have yet)."""
    with catalog._database.write() as connection:
        row = {
            "collection_id": generation.collection_id,
            "model_name": "other",
            "model_revision": "r",
            "weights_fingerprint": "w2",
            "preprocessing_fingerprint": "p2",
            "dimension": 8,
            "state": state,
            "last_seq": 0,
            "created_at": datetime.now(timezone.utc),
        }
        return int(connection.execute(tables.generations.insert().values(row)).inserted_primary_key[0])


def state_of_follower(catalog: Catalog, generation_id: int, after: int = 0) -> dict[str, bytes]:
    """What a follower holds that applies the feed from `after` on."""
    held: dict[str, bytes] = {}
    for page in catalog.feed.changes(generation_id, after, page=2):
        held.update((i, v.tobytes()) for i, v in zip(page.upserted_ids, page.vectors, strict=True))
        for image_id in page.removed_ids:
            held.pop(image_id, None)
    return held
