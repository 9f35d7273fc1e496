"""Opens the database and gives out transactions; the only place that turns driver errors into ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage.catalog.database import postgres, sqlite
from storage.errors import CatalogError, CatalogUnavailable

VERSION_TABLE = "catalog_version"  # Alembic's, named so that other programs in one PostgreSQL database do not meet

# What a retry cannot mend: the statement or the data is wrong, so the program is, or the database was edited.
_OUR_FAULT = (IntegrityError, ProgrammingError, DataError)

# Execution options for single statements, by dialect: nothing begins, so nothing has to end
_SINGLE: Mapping[str, dict[str, Any]] = {
    "sqlite": {sqlite.BEGIN_OPTION: sqlite.NOTHING},
    "postgresql": {"isolation_level": "AUTOCOMMIT"},
}


class Database:
    """One SQL database. Thread-safe: each transaction has its own connection; close it at shutdown."""

    def __init__(self, engine: Engine) -> None:
        self._readers = engine.execution_options(**{sqlite.BEGIN_OPTION: sqlite.READ})
        self._writers = engine.execution_options(**{sqlite.BEGIN_OPTION: sqlite.WRITE})
        self._single = engine.execution_options(**_SINGLE[engine.dialect.name])
        self.dialect = engine.dialect.name
        self.name = _shown(engine.url)

    @classmethod
    def open(cls, address: str | Path, *, create: bool) -> Database:
        """Open a SQLite file (path or sqlite:///path) or a postgresql:// address.

        Raises CatalogUnavailable and CatalogError. PostgreSQL is asked for nothing before the first transaction.
        """
        url = _url(address)
        if url.get_backend_name() == "postgresql":
            return cls(_open_postgres(url))
        sqlite.check_file(Path(str(url.database)), VERSION_TABLE, create=create)
        engine = create_engine(url)
        sqlite.prepare_engine(engine)
        return cls(engine)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One read transaction: on SQLite every statement in it sees the same moment."""
        with self._translated(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def read_once(self) -> Iterator[Connection]:
        """For one statement that reads: no transaction around it, which on PostgreSQL saves two round trips."""
        with self._translated(), self._single.connect() as connection:
            yield connection

    def rows(self, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The rows of one statement that reads, as the driver takes and gives them, without a transaction.

        SQLAlchemy's own work on each execution takes longer than a small statement itself.
        """
        with self.read_once() as connection:
            driver: Any = connection.dialect.dbapi
            try:
                cursor = connection.connection.cursor()
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())
            except driver.Error as error:
                raise DBAPIError.instance(statement, None, error, driver.Error, hide_parameters=True) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction, committed at the end of the block, rolled back when an error leaves it."""
        with self._translated(), self._writers.begin() as connection:
            yield connection

    def size_bytes(self) -> int:
        """What the database takes on the disk."""
        if self._readers.dialect.name == "sqlite":
            return sqlite.file_bytes(Path(self.name))
        with self.read() as connection:
            return postgres.database_bytes(connection)

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
            kind = CatalogError if postgres.refuses_login(str(error.orig)) else CatalogUnavailable
            raise kind(f"the catalog {self.name} cannot be used: {error.orig}") from error
        except PoolTimeout as error:
            raise CatalogUnavailable(f"too many threads use the catalog {self.name} at once: {error}") from error


def _open_postgres(url: URL) -> Engine:
    try:
        engine = create_engine(postgres.driver_url(url), **postgres.engine_options())
    except ModuleNotFoundError as error:
        raise CatalogUnavailable(f"PostgreSQL needs the package psycopg[binary]: {error}") from error
    postgres.prepare_engine(engine)
    return engine


def _url(address: str | Path) -> URL:
    if isinstance(address, Path) or "://" not in address:
        address = URL.create("sqlite", database=str(address)).render_as_string()
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        # Neither the address nor the parser's error is shown: a password may stand in both.
        raise CatalogUnavailable(
            "the address of the catalog is no path and no database URL; write sqlite:///path or "
            "postgresql://user:password@host/database, special characters of the password as %2F (/), %40 (@), %25 (%)"
        ) from None
    if url.drivername not in ("sqlite", "sqlite+pysqlite", *postgres.DRIVERS):
        raise CatalogUnavailable(f"the catalog is kept in SQLite or PostgreSQL (postgresql://), not {url.drivername}")
    if url.get_backend_name() == "sqlite" and (not url.database or url.database == ":memory:"):
        raise CatalogUnavailable("the catalog is a file: give a path (sqlite:///path); memory would keep nothing")
    return url


def shown_address(address: str | Path) -> str:
    """The address as people may see it. Raises CatalogUnavailable when it is none."""
    return _shown(_url(address))


def _shown(url: URL) -> str:
    """The database in messages and logs: never with the password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return f"{url.database} on {url.host or 'this machine'}"
