"""Snapshots: which index files are published. Knows the rows only, never reads or writes a file."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select

from storage.catalog import tables
from storage.catalog.database.clock import now
from storage.catalog.database.engine import Database
from storage.catalog.database.statements import insert_new
from storage.catalog.generations import lock_generation
from storage.catalog.records import SnapshotRecord

_SNAPSHOTS = tables.snapshots.c


@dataclass(frozen=True)
class PublishedFile:
    """An index file as written: it holds `count` vectors and every change up to `seq`."""

    seq: int
    count: int
    uri: str
    sha256: str


class Snapshots:
    """Records published snapshots; losing every one of them loses nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, generation_id: int, file: PublishedFile) -> int:
        """Record a file that is completely written; return the snapshot's number. Raises GenerationClosed."""
        values = {
            "generation_id": generation_id,
            "seq": file.seq,
            "count": file.count,
            "uri": file.uri,
            "sha256": file.sha256,
            "created_at": now(),
        }
        with self._database.write() as connection:
            lock_generation(connection, generation_id)  # a pruned generation gets no new rows
            return insert_new(connection, tables.snapshots, values)

    def newest(self, generation_id: int) -> SnapshotRecord | None:
        """The snapshot that holds most changes; None when none was published."""
        return next(iter(self.list(generation_id)), None)

    def forget(self, snapshot_id: int) -> None:
        """Take a snapshot out of the list, before its files are removed; unknown ones are gone already."""
        with self._database.write() as connection:
            connection.execute(delete(tables.snapshots).where(_SNAPSHOTS.id == snapshot_id))

    def list(self, generation_id: int) -> list[SnapshotRecord]:
        """Every published snapshot, the one that holds most changes first."""
        statement = (
            select(tables.snapshots)
            .where(_SNAPSHOTS.generation_id == generation_id)
            .order_by(_SNAPSHOTS.seq.desc(), _SNAPSHOTS.id.desc())
        )
        with self._database.read() as connection:
            return [SnapshotRecord(**row) for row in connection.execute(statement).mappings()]
