"""Failures: one row for each image that could not be indexed; commits write and clear them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, func, select

from storage.catalog import tables
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import any_of_collection, chunks, one_of
from storage.catalog.records import FailureRecord
from storage.records import Attributes

_FAILURES = tables.failures.c


class Failures:
    """Reads and clears failures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, collection_id: int) -> int:
        """How many images of the collection could not be indexed."""
        statement = select(func.count()).select_from(tables.failures).where(_FAILURES.collection_id == collection_id)
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def among(self, collection_id: int, image_ids: Collection[str]) -> dict[str, Attributes | None]:
        """Those of these ids that have a failure, each with the attributes that wait there for the next try."""
        with self._database.read() as connection:
            return failed_among(connection, collection_id, image_ids)

    def clear(self, collection_id: int, image_ids: Collection[str]) -> int:
        """Forget the failures of these images; return how many there were."""
        with self._database.write() as connection:
            return clear_failures(connection, collection_id, image_ids)

    def list(self, collection_id: int, *, after: str = "", limit: int | None = None) -> list[FailureRecord]:
        """The failures of the collection by image id, from behind `after`; all of them unless limited."""
        columns = [_FAILURES[name] for name in FailureRecord.__dataclass_fields__]
        here = (_FAILURES.collection_id == collection_id, _FAILURES.image_id > after)
        statement = select(*columns).where(*here).order_by(_FAILURES.image_id).limit(limit)
        with self._database.read() as connection:
            return [FailureRecord(**row) for row in connection.execute(statement).mappings()]


def failed_among(
    connection: Connection, collection_id: int, image_ids: Collection[str]
) -> dict[str, Attributes | None]:
    """See `Failures.among`; within the caller's transaction."""
    found: dict[str, Attributes | None] = {}
    for ids in chunks(image_ids):
        here = (_FAILURES.collection_id == collection_id, one_of(connection, _FAILURES.image_id, ids))
        rows = connection.execute(select(_FAILURES.image_id, _FAILURES.attributes).where(*here))
        found.update((row.image_id, row.attributes) for row in rows)
    return found


def clear_failures(connection: Connection, collection_id: int, image_ids: Collection[str]) -> int:
    """Delete these rows within the caller's transaction; return how many there were."""
    if not image_ids or not any_of_collection(connection, tables.failures, collection_id):
        return 0
    here = (_FAILURES.collection_id == collection_id, one_of(connection, _FAILURES.image_id, image_ids))
    return connection.execute(delete(tables.failures).where(*here)).rowcount
