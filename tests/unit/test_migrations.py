"""The schema: how it comes to be, and what happens when it is not ours or not of this version."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from storage.catalog import Catalog, schema, tables
from storage.catalog.database.engine import VERSION_TABLE, Database
from storage.errors import CatalogUnavailable, SchemaMismatch

ROOT = Path(__file__).parents[2]


def test_the_migrations_lead_to_the_tables_that_the_program_uses(tmp_path: Path) -> None:
    with Catalog.open(tmp_path / "catalog.db") as catalog, catalog._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, tables.metadata) == []
        names = {
            table: {index["name"] for index in inspect(connection).get_indexes(table)}
            for table in tables.metadata.tables
        }
    for table in tables.metadata.tables.values():
        assert {str(index.name) for index in table.indexes} <= names[table.name]


def test_the_program_knows_every_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema._MIGRATIONS))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(revisions)) == schema.REVISIONS


def test_every_table_can_be_made_on_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    for table in tables.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    Catalog.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE catalog_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(SchemaMismatch, match=r"9999.*upgrade"):
        Catalog.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM catalog_version").fetchall() == [("9999",)]


def test_a_migration_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    database = Database.open(path, create=True)

    def break_off() -> None:
        with database.write() as connection:
            schema._upgrade(connection)
            assert schema.stored_revision(connection) == schema.REVISIONS[-1]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    with database.read() as connection:
        assert inspect(connection).get_table_names() == []
    database.close()
    Catalog.open(path).close()  # and the next start makes it


def test_opening_a_current_catalog_does_not_load_the_migration_machinery(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    Catalog.open(path).close()
    program = (
        "import sys; from storage.catalog import Catalog; Catalog.open(sys.argv[1], create=False).close(); "
        "print([name for name in ('alembic', 'mako') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", ["100% ours", "a b", "ü#?猫", "semi;colon"])
def test_any_folder_name_will_do(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "deeper" / "catalog.db"
    with Catalog.open(path) as catalog:
        catalog.collections.ensure("photos")
    with Catalog.open(path, create=False) as catalog:
        assert [record.name for record in catalog.collections.list()] == ["photos"]


def test_an_empty_file_becomes_a_catalog_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.touch()
    with pytest.raises(CatalogUnavailable, match="no catalog"):
        Catalog.open(path, create=False)
    Catalog.open(path).close()


def test_many_processes_may_create_it_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from storage.catalog import Catalog\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print([Catalog.open(path).collections.ensure('photos').id for path in sys.argv[1:]])"
    )
    arguments = [sys.executable, "-c", program, *(str(tmp_path / f"{number}.db") for number in range(4))]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(arguments, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:  # all are imported: let them go together
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=180) for process in processes]
    assert [(out.strip(), err) for out, err in results] == [("[1, 1, 1, 1]", "")] * 3
