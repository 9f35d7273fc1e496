"""The limit for the catalog: the bare drivers, one table, nothing else. No checks, no look-ups, no images.

The table has the two keys that a changes feed needs, the commits are as durable as ours, the pages are read alike.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg

PAGE = 1024  # changes, as `storage.catalog.vectors.feed` reads them
Row = tuple[str, int, bytes, bytes]  # image id, sequence number, sha256, vector

_COLUMNS = "image_id text PRIMARY KEY, seq bigint NOT NULL UNIQUE, sha256 {0} NOT NULL, vector {0} NOT NULL"
_ON_CONFLICT = (
    "ON CONFLICT (image_id) DO UPDATE SET seq = excluded.seq, sha256 = excluded.sha256, vector = excluded.vector"
)
_READ = "SELECT seq, image_id, vector FROM bare WHERE seq > {} ORDER BY seq LIMIT {}"


class BareSqlite:
    """sqlite3.executemany in 16 KiB pages and WAL; a commit that returned is on the disk."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        pragmas = ("page_size = 16384", "journal_mode = WAL", "synchronous = FULL", "cache_size = -65536")
        for pragma in (*pragmas, "wal_autocheckpoint = 4096"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(f"CREATE TABLE bare ({_COLUMNS.format('blob')})")

    def commit(self, rows: Sequence[Row]) -> None:
        """Write the rows in a transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(f"INSERT INTO bare VALUES (?, ?, ?, ?) {_ON_CONFLICT}", rows)  # noqa: S608 - same
        self._connection.execute("COMMIT")

    def page(self, after: int) -> Sequence[Any]:
        """The next rows of the feed."""
        return self._connection.execute(_READ.format("?", PAGE), (after,)).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class BarePostgres:
    """psycopg's binary COPY into a temporary table, then an upsert; vectors uncompressed beside the rows."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url)
        self._connection.execute(f"CREATE TABLE bare ({_COLUMNS.format('bytea')})")
        self._connection.execute("ALTER TABLE bare ALTER COLUMN vector SET STORAGE EXTERNAL")
        like = "(LIKE bare INCLUDING STORAGE) WITH (toast_tuple_target = 8160) ON COMMIT DELETE ROWS"
        self._connection.execute(f"CREATE TEMPORARY TABLE staged {like}")
        self._connection.commit()

    def commit(self, rows: Sequence[Row]) -> None:
        """Write the rows in a transaction."""
        with self._connection.cursor() as cursor:
            with cursor.copy("COPY staged FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["text", "bigint", "bytea", "bytea"])
                for row in rows:
                    copy.write_row(row)
            cursor.execute(f"INSERT INTO bare SELECT * FROM staged {_ON_CONFLICT}")  # noqa: S608 - our own names
        self._connection.commit()

    def page(self, after: int) -> Sequence[Any]:
        """The next rows of the feed."""
        with self._connection.cursor(binary=True) as cursor:
            return cursor.execute(_READ.format("%s", PAGE), (after,)).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


Bare = BareSqlite | BarePostgres


@contextmanager
def bare_database(address: str) -> Iterator[Bare]:
    """A new table in the file (a path) or the database (postgresql://)."""
    with closing(BarePostgres(address) if address.startswith("postgresql://") else BareSqlite(address)) as bare:
        yield bare


def read_all(bare: Bare) -> int:
    """Read everything page by page, each page's vectors as one piece of memory; return how many there were."""
    count = after = 0
    while rows := bare.page(after):
        after = rows[-1][0]
        count += len(rows)
        bytearray().join([row[2] for row in rows])
    return count
