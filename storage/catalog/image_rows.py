"""Images as rows: ImageMetadata to and from `images`, attributes to the rows that filters search."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete

from storage.attributes import BOOLEAN, NUMBER, TEXT, Scalar, comparable, element_values, normal_attributes
from storage.catalog import tables
from storage.catalog.statements import chunks, insert_or_update, insert_rows, one_of
from storage.errors import CatalogError
from storage.records import Attributes, ImageMetadata

LONG_TEXT = "long_text"  # kind of a text too long to be indexed: its sha256 stands for it
MAX_INDEXED_CHARACTERS = 500  # PostgreSQL refuses index entries over 2,700 bytes; 500 characters are at most 2,000

_METADATA = tuple(ImageMetadata.model_fields)
_UPDATED = (*(name for name in _METADATA if name not in ("image_id", "created_at")), "deleted_at")
_SHA256 = re.compile(r"[0-9a-f]{64}|")


def write_images(connection: Connection, collection_id: int, images: Sequence[ImageMetadata], moment: datetime) -> None:
    """Insert or update live images and attributes; a deleted one comes back, `created_at` stays the first."""
    rows = [_image_row(collection_id, image, moment) for image in images]
    rows.sort(key=lambda row: str(row["image_id"]))  # one lock order for all writers, and neighbours share a page
    insert_or_update(connection, tables.images, rows, _UPDATED)
    write_attribute_rows(connection, collection_id, {row["image_id"]: row["attributes"] for row in rows})


def write_attribute_rows(connection: Connection, collection_id: int, attributes: dict[str, Attributes]) -> None:
    """Replace all attribute rows of these images; the attributes are normal already."""
    table = tables.image_attributes
    for ids in chunks(attributes):
        connection.execute(
            delete(table).where(table.c.collection_id == collection_id, one_of(connection, table.c.image_id, ids))
        )
    rows = [
        {
            "collection_id": collection_id,
            "image_id": image_id,
            "key": key,
            "position": position,
            **columns(value),
        }
        for image_id, of_image in attributes.items()
        for key, attribute in of_image.items()
        for position, value in enumerate(element_values(attribute))
    ]
    insert_rows(connection, table, rows)


def columns(value: Scalar) -> dict[str, Any]:
    """One value as the columns `kind`, `text` and `number` that filters compare."""
    kind, plain = comparable(value)
    if kind in (NUMBER, BOOLEAN):
        return {"kind": kind, "text": None, "number": float(plain)}
    if len(str(plain)) > MAX_INDEXED_CHARACTERS:
        return {"kind": LONG_TEXT, "text": hashlib.sha256(str(plain).encode()).hexdigest(), "number": None}
    return {"kind": TEXT, "text": plain, "number": None}


def image_metadata(row: RowMapping) -> ImageMetadata:
    """The image of one row of `images`."""
    return ImageMetadata(**{name: row[name] for name in _METADATA})


def _image_row(collection_id: int, image: ImageMetadata, moment: datetime) -> dict[str, Any]:
    if not _SHA256.fullmatch(image.sha256):
        raise CatalogError(f"image {image.image_id!r}: {image.sha256!r} is no sha256 in lower-case hex")
    return {
        "collection_id": collection_id,
        "image_id": image.image_id,
        "source_uri": image.source_uri,
        "etag": image.etag,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "bytes": image.bytes,
        "attributes": normal_attributes(image.attributes),
        "created_at": moment,
        "updated_at": moment,
        "deleted_at": None,
    }
