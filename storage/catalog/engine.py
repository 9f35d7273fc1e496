"""Opens the database and gives out transactions; the only place that turns driver errors into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage.catalog import sqlite
from storage.errors import CatalogError, CatalogUnavailable

VERSION_TABLE = "catalog_version"  # Alembic's, named so that other programs in one PostgreSQL database do not meet

# What a retry cannot mend: the statement or the data is wrong, so the program is, or the database was edited.
_OUR_FAULT = (IntegrityError, ProgrammingError, DataError)


class Database:
    """One SQL database. Thread-safe: each transaction has its own connection; close it at shutdown."""

    def __init__(self, engine: Engine) -> None:
        self._readers = engine.execution_options(**{sqlite.BEGIN_OPTION: sqlite.READ})
        self._writers = engine.execution_options(**{sqlite.BEGIN_OPTION: sqlite.WRITE})
        self.name = engine.url.database or engine.url.render_as_string(hide_password=True)

    @classmethod
    def open(cls, address: str | Path, *, create: bool) -> Database:
        """Open a SQLite file (path or sqlite:///path) or other SQLAlchemy URL. Raises CatalogUnavailable."""
        url = _url(address)
        is_sqlite = url.get_backend_name() == "sqlite"
        if is_sqlite:
            sqlite.check_file(Path(str(url.database)), VERSION_TABLE, create=create)
        try:
            engine = create_engine(url)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise CatalogUnavailable(f"no driver for {url.drivername} is installed: {error}") from error
        if is_sqlite:
            sqlite.prepare_engine(engine)
        return cls(engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read transaction: on SQLite every statement in it sees the same moment."""
        with self._translated(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction, committed at the end of the block, rolled back when an error leaves it."""
        with self._translated(), self._writers.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _OUR_FAULT as error:
            raise CatalogError(f"the catalog {self.name} refused a statement: {error.orig}") from error
        except DBAPIError as error:
            raise CatalogUnavailable(f"the catalog {self.name} cannot be used: {error.orig}") from error
        except PoolTimeout as error:
            raise CatalogUnavailable(f"too many threads use the catalog {self.name} at once: {error}") from error


def _url(address: str | Path) -> URL:
    if isinstance(address, Path) or "://" not in address:
        address = URL.create("sqlite", database=str(address)).render_as_string()
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise CatalogUnavailable(f"{address!r} is no path and no database URL") from error
    if url.get_backend_name() == "sqlite" and (not url.database or url.database == ":memory:"):
        raise CatalogUnavailable("the catalog is a file: give a path (sqlite:///path); memory would keep nothing")
    return url
