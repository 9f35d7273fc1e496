"""Reads one planned file and tells by its hash whether its content is new. Runs on threads; touches no SQL."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from pipeline.errors import IdTaken
from pipeline.indexing.plan import Planned, attributes_of
from storage.errors import ImageNotFound, InvalidImageId, StorageError, StorageUnavailable, VisualSearchError
from storage.images.locate import ImageReader
from storage.records import ImageMetadata, image_id_problem


class Reads(Protocol):
    """What fetching needs of a store: any StorageBackend, or a reader of recorded addresses."""

    def get(self, key: str) -> bytes:
        """Read all bytes under the key. Raises StorageError."""
        ...


@dataclass(frozen=True)
class Fetched:
    """The bytes of one file, or the error that kept us from them; `seconds` is the time of this thread."""

    planned: Planned
    data: bytes
    size_bytes: int
    sha256: str
    error: VisualSearchError | None
    seconds: float

    @property
    def same_content(self) -> bool:
        """Whether the catalog's vector was made from these very bytes."""
        known = self.planned.known
        return (
            self.error is None
            and known is not None
            and known.has_vector
            and not known.deleted
            and known.metadata.sha256 == self.sha256
        )

    def metadata(self, width: int, height: int, format_: str) -> ImageMetadata:
        """What the catalog will hold for this file, once its content is known to be a picture of that shape."""
        stored = self.planned.item.stored
        return ImageMetadata(
            image_id=self.planned.item.image_id,
            source_uri=stored.uri,
            etag=stored.etag,
            sha256=self.sha256,
            width=width,
            height=height,
            format=format_,
            bytes=self.size_bytes,
            attributes=attributes_of(self.planned),
        )


def fetch(reader: Reads, planned: Planned) -> Fetched:
    """Read and hash one file; an expected error is returned with it, so that it fails alone."""
    started = perf_counter()
    try:
        _check_id(planned.item.image_id)
        data = reader.get(planned.item.stored.key)
        sha256 = hashlib.sha256(data).hexdigest()
        error = _id_conflict(planned, sha256)
    except VisualSearchError as failure:
        return Fetched(planned, b"", 0, "", failure, perf_counter() - started)
    return Fetched(planned, data, len(data), sha256, error, perf_counter() - started)


def _is_gone(uri: str) -> bool:
    try:
        ImageReader().stat(uri)
    except (ImageNotFound, StorageUnavailable):  # a folder that was moved is gone as a whole
        return True
    except StorageError:
        return False
    return False


def _check_id(image_id: str) -> None:
    problem = image_id_problem(image_id)
    if problem is not None:
        raise InvalidImageId(f"{problem}: rename the file, or index a folder deeper inside with a short --id-prefix")


def _id_conflict(planned: Planned, sha256: str) -> IdTaken | None:
    """Two files that claim one id: equal content, gone from its old place, has moved; else the first keeps the id."""
    known = planned.known
    if known is None or known.deleted or known.metadata.source_uri == planned.item.stored.uri:
        return None
    if known.metadata.sha256 == sha256 and _is_gone(known.metadata.source_uri):
        return None
    return IdTaken(
        f"image id '{planned.item.image_id}' belongs to {known.metadata.source_uri}; "
        "give this source an --id-prefix or its own --collection, or delete the other image first"
    )
