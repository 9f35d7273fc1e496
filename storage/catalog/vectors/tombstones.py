"""Deleting images: their rows are marked, and every open generation gets tombstones in its changes feed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from storage.catalog import tables
from storage.catalog.database.statements import chunks, one_of
from storage.catalog.failures import clear_failures
from storage.catalog.generations import lock_open_generations, take_sequence_numbers

_VECTORS = tables.vectors.c


def delete_images(connection: Connection, collection_id: int, image_ids: Sequence[str], moment: datetime) -> int:
    """Mark the images deleted, write their tombstones, forget their failures; return how many were live."""
    deleted = 0
    for generation in lock_open_generations(connection, collection_id):
        _write_tombstones(connection, generation.id, image_ids)
    images = tables.images
    for ids in chunks(sorted(image_ids)):
        here = (
            images.c.collection_id == collection_id,
            one_of(connection, images.c.image_id, ids),
            images.c.deleted_at.is_(None),
        )
        # in the order in which all lock them; an update alone would go by where the rows lie
        connection.execute(
            select(images.c.image_id).where(*here).order_by(images.c.image_id).with_for_update(key_share=True)
        ).all()
        deleted += connection.execute(update(images).where(*here).values(deleted_at=moment)).rowcount
    clear_failures(connection, collection_id, image_ids)
    return deleted


def _write_tombstones(connection: Connection, generation_id: int, image_ids: Sequence[str]) -> None:
    """Only for images that have a vector: a second deletion makes no second change."""
    present: list[str] = []
    for ids in chunks(image_ids):
        statement = select(_VECTORS.image_id).where(
            _VECTORS.generation_id == generation_id,
            one_of(connection, _VECTORS.image_id, ids),
            _VECTORS.vector.is_not(None),
        )
        present.extend(connection.scalars(statement.order_by(_VECTORS.image_id)))
    if not present:
        return
    numbers = take_sequence_numbers(connection, generation_id, len(present))
    connection.execute(
        update(tables.vectors)
        .where(_VECTORS.generation_id == generation_id, _VECTORS.image_id == bindparam("of_image"))
        .values(seq=bindparam("new_seq"), sha256=None, vector=None),
        [{"of_image": image_id, "new_seq": seq} for image_id, seq in zip(present, numbers, strict=True)],
    )
