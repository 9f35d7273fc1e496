"""What the catalog takes and gives: plain frozen records. Knows no SQL; all times are timezone-aware UTC."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from storage.records import Attributes, ImageMetadata, ModelIdentity

Vectors = np.ndarray[Any, np.dtype[np.float32]]

GenerationState = Literal["building", "active", "standby", "retired"]
JobState = Literal["listing", "running", "finished", "failed", "cancelled", "interrupted"]


@dataclass(frozen=True)
class CollectionRecord:
    """One collection; only `collections.list` fills `image_count` (live images), for counting takes time."""

    id: int
    name: str
    active_generation_id: int | None
    created_at: datetime
    image_count: int | None = None


@dataclass(frozen=True)
class Generation:
    """All vectors of one collection by one model; `last_seq` is the newest change (0: none yet).

    `replaced_at`: when another one became active in its place, the last time.
    """

    id: int
    collection_id: int
    model: ModelIdentity
    state: GenerationState
    last_seq: int
    created_at: datetime
    replaced_at: datetime | None = None


@dataclass(frozen=True, eq=False)
class IndexedImage:
    """An image to store, its vector (dimension,) float32, unit length. The catalog sets the timestamps."""

    metadata: ImageMetadata
    vector: Vectors


@dataclass(frozen=True)
class ImageFailure:
    """An image that could not be indexed: the stable reason code and a message for people.

    `attributes` are those it would have had, for the next try; None: those known of an earlier failure stay.
    """

    image_id: str
    source_uri: str
    reason: str
    message: str
    etag: str = ""
    attributes: Attributes | None = None


@dataclass(frozen=True)
class IndexBatch:
    """What one commit writes, all or nothing.

    No image id may stand twice in upserts, refreshed and removed together. `refreshed` changes metadata and
    keeps the vector; `removed` deletes as `images.delete` does. `vectors_only` is for a generation that is filled
    beside the active one: image rows stay as they are, see `storage.catalog.vectors.added_vectors`.
    `keeps_attributes` are ids for which nobody gave attributes: a live row keeps those that it has by then.
    """

    upserts: Sequence[IndexedImage] = ()
    refreshed: Sequence[ImageMetadata] = ()
    failures: Sequence[ImageFailure] = ()
    removed: Sequence[str] = ()
    vectors_only: bool = False
    keeps_attributes: Collection[str] = ()


class ShownImage(NamedTuple):
    """What a search shows of an image; many are read for each page, so it is light."""

    source_uri: str
    attributes: Attributes


@dataclass(frozen=True)
class KnownImage:
    """What the catalog has of an image; `has_vector`: of exactly this content, in the asked generation."""

    metadata: ImageMetadata
    deleted: bool
    has_vector: bool


@dataclass(frozen=True, eq=False)
class KnownContent:
    """What known content has already: its vector, (dimension,) float32, and the picture's shape."""

    vector: Vectors
    width: int
    height: int
    format: str


@dataclass(frozen=True, eq=False)
class ChangePage:
    """Some changes in sequence order: ids with their (n, dimension) float32 vectors, and removed ids.

    No id stands twice in a page, so upserts and removals may be applied in either order. `last_seq` is where
    the follower stands after applying the page.
    """

    last_seq: int
    upserted_ids: list[str]
    vectors: Vectors
    removed_ids: list[str]


@dataclass(frozen=True)
class FailureRecord:
    """An image that could not be indexed, and how often and when that was tried."""

    image_id: str
    source_uri: str
    reason: str
    message: str
    attempts: int
    first_at: datetime
    last_at: datetime
    etag: str = ""
    attributes: Attributes | None = None


@dataclass(frozen=True)
class JobRecord:
    """One indexing run or queued job: what was asked, what came of it. A killed embedded run stays `running`.

    `listed_until` is the last key whose page of the listing is committed; `updated_at` the last time anything was.
    """

    id: int
    collection_id: int
    kind: str
    source: str
    options: Mapping[str, Any]
    counts: Mapping[str, int]
    state: JobState
    started_at: datetime
    finished_at: datetime | None
    generation_id: int | None = None
    request_key: str | None = None
    priority: int = 0
    listed_until: str = ""
    updated_at: datetime | None = None


@dataclass(frozen=True)
class SnapshotRecord:
    """One published index file: it holds `count` vectors and every change up to `seq`."""

    id: int
    generation_id: int
    seq: int
    count: int
    uri: str
    sha256: str
    created_at: datetime
