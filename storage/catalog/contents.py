"""Vectors by content hash: equal bytes under another id need no second inference."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, func, select

from storage.catalog import tables
from storage.catalog.database.statements import READS_VECTORS, chunks
from storage.catalog.generations import find_generation
from storage.catalog.records import KnownContent
from storage.catalog.vectors.vector_bytes import unpack_vectors


def known_contents(connection: Connection, generation_id: int, hashes: Collection[str]) -> dict[str, KnownContent]:
    """The vector of each sha256 that a live image with a vector in the generation has."""
    generation = find_generation(connection, generation_id)
    vectors, images = tables.vectors.c, tables.images.c
    one_of_each = (
        select(func.min(vectors.image_id).label("image_id"))
        .join(tables.images, images.image_id == vectors.image_id)
        .where(
            images.collection_id == generation.collection_id,
            images.sha256 == vectors.sha256,  # else width, height and format belong to newer content
            vectors.generation_id == generation_id,
            vectors.vector.is_not(None),
        )
        .group_by(vectors.sha256)
    )
    found: dict[str, KnownContent] = {}
    for part in chunks(sha256 for sha256 in hashes if sha256):
        chosen = one_of_each.where(vectors.sha256.in_(part)).subquery()
        statement = (
            select(vectors.sha256, vectors.vector, images.width, images.height, images.format)
            .join(chosen, chosen.c.image_id == vectors.image_id)
            .join(tables.images, images.image_id == vectors.image_id)
            .where(vectors.generation_id == generation_id, images.collection_id == generation.collection_id)
            .execution_options(**READS_VECTORS)
        )
        for row in connection.execute(statement):
            [vector] = unpack_vectors([row.vector], generation.model.dimension)
            found[row.sha256] = KnownContent(vector, row.width, row.height, row.format)
    return found
