"""Collections: named sets of images, each with one active generation of vectors."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Row, func, select

from storage.catalog import tables
from storage.catalog.database.clock import now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import insert_missing
from storage.catalog.records import CollectionRecord
from storage.errors import InvalidCollectionName, UnknownCollection

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")  # goes unquoted into URLs, folder names and S3 keys


class Collections:
    """Reads and makes collections."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure(self, name: str) -> CollectionRecord:
        """Return the collection, making it when there is none; two processes at once get the same one.

        Raises InvalidCollectionName.
        """
        if not _NAME.fullmatch(name):
            raise InvalidCollectionName(
                f"{name!r} cannot name a collection: 1 to 63 of a-z, 0-9, - and _, not beginning with - or _"
            )
        record = self._find(name)
        if record is None:
            with self._database.write() as connection:
                insert_missing(connection, tables.collections, {"name": name, "created_at": now()})
            record = self.get(name)
        return record

    def get(self, name: str) -> CollectionRecord:
        """Return the collection. Raises UnknownCollection, naming those that there are."""
        record = self._find(name)
        if record is None:
            names = ", ".join(record.name for record in self.list()) or "none yet"
            raise UnknownCollection(f"there is no collection {name!r}; there are: {names}")
        return record

    def _find(self, name: str) -> CollectionRecord | None:
        with self._database.read() as connection:
            row = connection.execute(select(tables.collections).where(tables.collections.c.name == name)).one_or_none()
        return None if row is None else _record(row)

    def list(self) -> list[CollectionRecord]:
        """Every collection by name, with the number of its live images."""
        images = tables.images.c
        counted = (
            select(images.collection_id, func.count().label("image_count"))
            .where(images.deleted_at.is_(None))
            .group_by(images.collection_id)
            .subquery()
        )
        statement = (
            select(tables.collections, func.coalesce(counted.c.image_count, 0).label("image_count"))
            .outerjoin(counted, counted.c.collection_id == tables.collections.c.id)
            .order_by(tables.collections.c.name)
        )
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(statement)]


def _record(row: Row[Any]) -> CollectionRecord:
    return CollectionRecord(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
