"""All that only SQLite needs: looking before opening, the PRAGMAs, and how transactions begin."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from storage.errors import CatalogUnavailable, SchemaMismatch

PAGE_BYTES = 16 * 1024  # one 512-d vector is 2 KiB: seven fit a page; in SQLite's 4 KiB pages each would waste half
BUSY_TIMEOUT_SECONDS = 30  # the longest commit of another process that a writer waits for
CACHE_KIB = 64 * 1024  # the indexes of a million images mostly fit
CHECKPOINT_PAGES = 4096  # 64 MiB of log between checkpoints, so that an index page is copied once, not many times
BEGIN_OPTION = "visual_search_begin"  # execution option of an engine: the statement that begins its transactions
READ = "BEGIN"
NOTHING = ""  # a single statement is a transaction of its own
# Taking the write lock at the start: a transaction that reads first and then writes would otherwise work on
# old data or fail at once with "database is locked", whatever the timeout.
WRITE = "BEGIN IMMEDIATE"

_OPENING_PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}",
    "PRAGMA foreign_keys = ON",
    # A commit is on the disk when it returns, power loss included: what is acknowledged stays. Measured with
    # batches of 256 vectors FULL is not slower than NORMAL, for the whole batch shares one sync.
    "PRAGMA synchronous = FULL",
    f"PRAGMA cache_size = -{CACHE_KIB}",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_BYTES}",
)


def check_file(path: Path, version_table: str, *, create: bool) -> None:
    """Look at the file without changing it: switching to WAL would already change another program's database.

    Raises CatalogUnavailable when it is missing (and not to be made), a folder or no database, SchemaMismatch
    when it is the database of another program.
    """
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise CatalogUnavailable(f"{path} is a folder; the catalog is a file")
        size = path.stat().st_size if path.exists() else -1
    except OSError as error:
        raise CatalogUnavailable(f"the catalog {path} cannot be opened: {error.strerror}") from error
    if size < 0 and not create:
        raise CatalogUnavailable(f"there is no catalog at {path}: index something first, or name another place")
    if size > 0:
        _check_tables(path, version_table)


def file_bytes(path: Path) -> int:
    """The size of the file and of what is not yet moved into it from the log."""
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _check_tables(path: Path, version_table: str) -> None:
    address = f"{path.absolute().as_uri()}?mode=rw"  # rw: an interrupted creation is rolled back, none begun
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error as error:
        raise CatalogUnavailable(f"the catalog {path} cannot be opened: {error}") from error
    tables = {name for (name,) in rows}
    if tables and version_table not in tables:
        raise SchemaMismatch(f"{path} is the database of another program; name another place for the catalog")


def prepare_engine(engine: Engine) -> None:
    """Make every connection of the engine ours: page size, WAL, and transactions that begin as we say."""
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the sqlite3 module begins nothing by itself: `_on_begin` does
    for pragma in _OPENING_PRAGMAS:
        connection.execute(pragma)
    _enter_wal(connection)


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch a new file to 16 KiB pages and WAL. SQLite does not wait for others there, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of effect only before the first page
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _on_begin(connection: Connection) -> None:
    statement = connection.get_execution_options().get(BEGIN_OPTION, WRITE)
    if statement:
        connection.exec_driver_sql(statement)
