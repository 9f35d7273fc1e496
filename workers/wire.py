"""The wire format of finished batches, the only file that knows it: embed workers pack, the aggregator reads.

A message is three fields of a Redis stream entry: `v` (version), `header` (msgpack: ids, metadata, failures,
counts) and `vectors` (raw little-endian float32, one row an upsert). Raw bytes cost 1/400 of JSON. No pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgpack
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.catalog import BatchResult, ImageFailure, IndexBatch, IndexedImage
from storage.records import Attributes, ImageMetadata
from workers.errors import WireError

Fields = Mapping[bytes, bytes]

VERSION = b"1"
MAX_IMAGES = 4096  # per message; the settings cap a batch at 1024
MAX_HEADER_BYTES = 32 * 1024 * 1024  # 1024 images with 16 KiB of attributes and a message each
MAX_VECTOR_BYTES = 64 * 1024 * 1024  # 4096 images with 4096 dimensions
_LITTLE_ENDIAN = np.dtype("<f4")
_STRICT = ConfigDict(extra="forbid", strict=True)

_Count = Annotated[int, Field(ge=0)]


class _Failure(BaseModel):
    model_config = _STRICT

    image_id: str
    source_uri: str
    reason: str
    message: str
    etag: str
    attributes: Attributes | None = None


class _Header(BaseModel):
    """Everything but the numbers; `dimension` is 0 when there is no upsert."""

    model_config = _STRICT

    batch_id: int
    generation_id: int
    dimension: int = Field(ge=0, le=65_536)
    counts: dict[str, _Count] = Field(max_length=64)
    upserts: list[ImageMetadata] = Field(max_length=MAX_IMAGES)
    refreshed: list[ImageMetadata] = Field(max_length=MAX_IMAGES)
    failures: list[_Failure] = Field(max_length=MAX_IMAGES)
    removed: list[str] = Field(max_length=MAX_IMAGES)


def pack(result: BatchResult) -> dict[bytes, bytes]:
    """The fields of one finished batch. Raises WireError when it is too large or cannot be written."""
    vectors = _rows(result.batch)
    batch = result.batch
    header = {
        "batch_id": result.batch_id,
        "generation_id": result.generation_id,
        "dimension": vectors.shape[1],
        "counts": dict(result.counts),
        "upserts": [_plain(image.metadata) for image in batch.upserts],
        "refreshed": [_plain(metadata) for metadata in batch.refreshed],
        "failures": [_told(failure) for failure in batch.failures],
        "removed": list(batch.removed),
    }
    try:
        packed = msgpack.packb(header, unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"batch {result.batch_id} cannot be packed: {error}") from error
    images = max(len(batch.upserts), len(batch.refreshed), len(batch.failures), len(batch.removed))
    _check_size(f"batch {result.batch_id}", len(packed), vectors.nbytes, images)
    return {b"v": VERSION, b"header": packed, b"vectors": vectors.tobytes()}


def unpack(fields: Fields) -> BatchResult:
    """Read one message, vectors as (n, dimension) float32 rows.

    Raises WireError for anything that `pack` cannot have made, without having read more than the limits allow.
    """
    if fields.get(b"v") != VERSION:
        raise WireError(f"message of version {fields.get(b'v')!r}, this program reads {VERSION!r}")
    packed, raw = fields.get(b"header"), fields.get(b"vectors")
    if packed is None or raw is None:
        raise WireError("message without header or vectors")
    _check_size("message", len(packed), len(raw), 0)
    header = _read_header(packed)
    rows = _read_rows(raw, len(header.upserts), header.dimension)
    return BatchResult(
        batch_id=header.batch_id,
        generation_id=header.generation_id,
        batch=IndexBatch(
            upserts=[IndexedImage(one, row) for one, row in zip(header.upserts, rows, strict=True)],
            refreshed=header.refreshed,
            failures=[ImageFailure(**one.model_dump()) for one in header.failures],
            removed=header.removed,
        ),
        counts=header.counts,
    )


def _plain(metadata: ImageMetadata) -> dict[str, Any]:
    """Without the timestamps: the catalog sets them."""
    return metadata.model_dump(exclude={"created_at", "updated_at"})


def _told(failure: ImageFailure) -> dict[str, Any]:
    """Attributes only where there are any: an aggregator of the version before does not know them."""
    return {name: value for name, value in vars(failure).items() if name != "attributes" or value is not None}


def _rows(batch: IndexBatch) -> np.ndarray[Any, np.dtype[np.float32]]:
    if not batch.upserts:
        return np.empty((0, 0), dtype=_LITTLE_ENDIAN)
    try:
        rows = np.stack([image.vector for image in batch.upserts]).astype(_LITTLE_ENDIAN, copy=False)
    except ValueError as error:
        raise WireError(f"the vectors of a batch have different shapes: {error}") from error
    if rows.ndim != 2:
        raise WireError(f"a vector is one row of numbers, got shape {rows.shape[1:]}")
    return rows


def _check_size(what: str, header_bytes: int, vector_bytes: int, images: int) -> None:
    if header_bytes > MAX_HEADER_BYTES or vector_bytes > MAX_VECTOR_BYTES or images > MAX_IMAGES:
        raise WireError(
            f"{what} is too large: {images} images, {header_bytes:,} bytes of header (at most {MAX_HEADER_BYTES:,}), "
            f"{vector_bytes:,} of vectors (at most {MAX_VECTOR_BYTES:,}); use smaller batches"
        )


def _read_header(packed: bytes) -> _Header:
    try:
        return _Header.model_validate(msgpack.unpackb(packed, unicode_errors="surrogatepass"))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise WireError(f"broken header: {where or 'as a whole'}: {problem['msg']}") from error
    except (ValueError, TypeError, RecursionError) as error:  # what msgpack raises for bytes that are none of its own
        raise WireError(f"the header is not msgpack: {error}") from error


def _read_rows(raw: bytes, count: int, dimension: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    if len(raw) != count * dimension * _LITTLE_ENDIAN.itemsize or (count > 0 and dimension == 0):
        raise WireError(f"{len(raw)} bytes are not {count} vectors of {dimension} float32 numbers")
    return np.frombuffer(raw, dtype=_LITTLE_ENDIAN).reshape(count, dimension).astype(np.float32, copy=False)
