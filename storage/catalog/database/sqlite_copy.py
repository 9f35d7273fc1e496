"""A consistent copy of a SQLite catalog while others read and write it, and a check of such a copy."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from storage.catalog.database.sqlite import BUSY_TIMEOUT_SECONDS
from storage.errors import CatalogUnavailable


def copy_catalog(source: Path, target: Path) -> None:
    """Write what is committed now into a new file, packed. Raises CatalogUnavailable, also for a full disk.

    VACUUM INTO reads in one transaction; SQLite's backup interface would begin anew with each commit of another
    process, on a busy catalog for ever.
    """
    address = f"{source.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_SECONDS)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise CatalogUnavailable(f"the catalog {source} cannot be copied to {target}: {error}") from error


def check_copy(copy: Path) -> None:
    """Read the whole copy. Raises CatalogUnavailable when it is damaged."""
    try:
        with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise CatalogUnavailable(f"{copy} is no catalog that can be read: {error}") from error
    if verdict != "ok":
        raise CatalogUnavailable(f"{copy} is damaged: {verdict}")
