"""Images as rows: ImageMetadata to and from `images`, attributes to the rows that filters search."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, RowMapping, delete

from storage.attributes import BOOLEAN, NUMBER, TEXT, Scalar, comparable, element_values, normal_attributes
from storage.catalog import tables
from storage.catalog.database.many_rows import insert_or_update, insert_rows
from storage.catalog.database.statements import any_of_collection, one_of
from storage.errors import CatalogError
from storage.records import Attributes, ImageMetadata

LONG_TEXT = "long_text"  # kind of a text too long to be indexed: its sha256 stands for it
MAX_INDEXED_CHARACTERS = 500  # PostgreSQL refuses index entries over 2,700 bytes; 500 characters are at most 2,000

_METADATA = tuple(ImageMetadata.model_fields)
_UPDATED = (*(name for name in _METADATA if name not in ("image_id", "created_at")), "deleted_at")
_GIVEN = tuple(name for name in _METADATA if name not in ("attributes", "created_at", "updated_at"))
_SHA256 = re.compile(r"[0-9a-f]{64}|")


def write_images(connection: Connection, collection_id: int, images: Sequence[ImageMetadata], moment: datetime) -> None:
    """Insert or update live images and attributes; a deleted one comes back, `created_at` stays the first."""
    images = sorted(images, key=attrgetter("image_id"))  # one lock order for all writers, and neighbours share a page
    for image in images:
        if not _SHA256.fullmatch(image.sha256):
            raise CatalogError(f"image {image.image_id!r}: {image.sha256!r} is no sha256 in lower-case hex")
    attributes = {image.image_id: normal_attributes(image.attributes) for image in images}
    rows = {name: list(map(attrgetter(name), images)) for name in _GIVEN} | {
        "collection_id": collection_id,
        "attributes": list(attributes.values()) if any(attributes.values()) else {},  # {} for all is converted once
        "created_at": moment,
        "updated_at": moment,
        "deleted_at": None,
    }
    insert_or_update(connection, tables.images, rows, _UPDATED)
    write_attribute_rows(connection, collection_id, attributes)


def write_attribute_rows(connection: Connection, collection_id: int, attributes: dict[str, Attributes]) -> None:
    """Replace all attribute rows of these images; the attributes are normal already."""
    if not attributes:
        return
    table = tables.image_attributes
    if any_of_collection(connection, table, collection_id):
        of_images = (table.c.collection_id == collection_id, one_of(connection, table.c.image_id, attributes))
        connection.execute(delete(table).where(*of_images))
    rows = [
        (image_id, key, position, *_compared(value))
        for image_id, of_image in attributes.items()
        for key, attribute in of_image.items()
        for position, value in enumerate(element_values(attribute))
    ]
    names = ("image_id", "key", "position", "kind", "text", "number")
    if rows:
        of_rows = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        insert_rows(connection, table, {"collection_id": collection_id, **of_rows})


def columns(value: Scalar) -> dict[str, Any]:
    """One value as the columns `kind`, `text` and `number` that filters compare."""
    return dict(zip(("kind", "text", "number"), _compared(value), strict=True))


def _compared(value: Scalar) -> tuple[str, str | None, float | None]:
    kind, plain = comparable(value)
    if kind in (NUMBER, BOOLEAN):
        return kind, None, float(plain)
    text = str(plain)
    if len(text) > MAX_INDEXED_CHARACTERS:
        return LONG_TEXT, hashlib.sha256(text.encode()).hexdigest(), None
    return TEXT, text, None


def image_metadata(row: RowMapping) -> ImageMetadata:
    """The image of one row of `images`."""
    return ImageMetadata(**{name: row[name] for name in _METADATA})
