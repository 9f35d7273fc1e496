"""Brings a database to the newest schema. Alembic is imported only when there is something to migrate."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, func, inspect, select, table
from sqlalchemy import column as sql_column

from storage.catalog.database.engine import VERSION_TABLE, Database
from storage.catalog.database.postgres import check_encoding
from storage.errors import CatalogUnavailable, SchemaMismatch

REVISIONS = ("0001", "0002", "0003", "0004", "0005")  # oldest first; the last one is what this program works with
_MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 0x76697375616C  # "visual": the PostgreSQL advisory lock that lets one process migrate at a time

log = logging.getLogger(__name__)


def ensure_schema(database: Database, *, create: bool) -> None:
    """Create the tables or migrate them forward; one query when they are current.

    Raises SchemaMismatch when the database is newer than this program, CatalogUnavailable when it is empty
    and must not be created.
    """
    with database.read() as connection:
        revision = stored_revision(connection)
    if revision == REVISIONS[-1]:
        return
    _check_older(revision, database.name)
    if revision is None and not create:
        raise CatalogUnavailable(f"{database.name} holds no catalog: index something first, or name another place")
    with database.write() as connection:
        _lock(connection)
        revision = stored_revision(connection)  # another process may have done it meanwhile
        _check_older(revision, database.name)
        if revision != REVISIONS[-1]:
            _upgrade(connection)
            log.info("catalog %s: schema %s -> %s", database.name, revision or "none", REVISIONS[-1])


def stored_revision(connection: Connection) -> str | None:
    """The revision of the schema in this database, None when it holds no catalog."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.scalar(select(sql_column("version_num")).select_from(table(VERSION_TABLE)))


def _check_older(revision: str | None, name: str) -> None:
    if revision is not None and revision not in REVISIONS:
        raise SchemaMismatch(
            f"the catalog {name} has schema {revision}, this program knows up to {REVISIONS[-1]}: "
            "it was written by a newer version; upgrade this one"
        )


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # on SQLite, BEGIN IMMEDIATE is the lock
        connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
        check_encoding(connection)


def _upgrade(connection: Connection, revision: str = "head") -> None:
    from alembic import command  # half of the time that opening a current catalog takes would go here
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))  # % means itself
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
