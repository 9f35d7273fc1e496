"""Catalogs with the schema of an earlier version, made by its migrations, for tests of the later ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from storage.catalog import schema
from storage.catalog.database.engine import Database


def address_for(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the test's database is to be, as the fixture's parameter says: a file, or an empty PostgreSQL database."""
    if request.param == "sqlite":
        return f"sqlite:///{(tmp_path / 'catalog.db').as_posix()}"
    return str(request.getfixturevalue("bare_postgres_url"))


def catalog_at_revision(revision: str, rows: Iterable[str], address: str) -> str:
    """Make the schema of this revision at the address, with these rows (INSERT statements); return the address."""
    database = Database.open(address, create=True)
    with database.write() as connection:
        config = Config()
        config.set_main_option("script_location", str(schema._MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in rows:
            connection.execute(text(statement.replace(":", r"\:")))
    database.close()
    return address
