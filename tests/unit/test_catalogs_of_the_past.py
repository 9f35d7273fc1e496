"""A catalog that any earlier version wrote is migrated forward and goes on: searched, added to, deleted from.

On SQLite it is the very file of then. On PostgreSQL its rows stand in the tables that the migrations up to then make.
"""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from pictures import jpeg

from storage.catalog import schema
from storage.catalog.database.engine import VERSION_TABLE, Database
from storage.settings import Settings
from visual_search import ImageCollection
from visual_search.collection import Query

DUMPS = Path(__file__).parents[1] / "data" / "catalogs"
LIVE = [f"{number}.jpg" for number in range(5)]
ORDER = (VERSION_TABLE, "collections", "generations", "images", "image_attributes", "vectors", "failures", "jobs")
ORDER += ("job_batches", "leases", "snapshots")  # what a row points at comes before it


@pytest.fixture(params=schema.REVISIONS)
def dump(request, tmp_path):
    """The SQLite file of a program of that schema."""
    path = tmp_path / f"{request.param}.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DUMPS / f"{request.param}.sql").read_text())
        assert connection.execute("SELECT version_num FROM catalog_version").fetchall() == [(request.param,)]
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request, dump, tmp_path):
    """A data folder, or a database, as the program of that schema left it."""
    home = tmp_path / "home"
    home.mkdir()
    if request.param == "sqlite":
        settings = Settings(data_dir=home, model="baseline")
        shutil.copyfile(dump, settings.catalog_path)
        return settings
    url = request.getfixturevalue("bare_postgres_url")
    _put_into_postgres(dump, url)
    return Settings(data_dir=home, model="baseline", database_url=url)


def _put_into_postgres(dump, url):
    """Make the tables of then by the migrations up to then, and fill them with the rows of the dump."""
    tables = sa.MetaData()
    with closing(sqlite3.connect(dump)) as old, closing(Database.open(url, create=True)) as database:
        old.row_factory = sqlite3.Row
        with database.write() as connection:
            schema._upgrade(connection, dump.stem)
            tables.reflect(connection)
            circle = old.execute("SELECT id, active_generation_id FROM collections").fetchall()
            for table in sorted(tables.tables.values(), key=lambda one: ORDER.index(one.name)):
                rows = [_converted(table, dict(row)) for row in old.execute(f"SELECT * FROM {table.name}")]
                if table.name == "collections":  # names a generation, which names its collection
                    rows = [{**row, "active_generation_id": None} for row in rows]
                if rows and table.name != VERSION_TABLE:
                    connection.execute(sa.insert(table), rows)
            collections = tables.tables["collections"]
            for row in circle:
                this = sa.update(collections).where(collections.c.id == row["id"])
                connection.execute(this.values(active_generation_id=row["active_generation_id"]))
            for table in tables.tables.values():
                if "id" in table.c and isinstance(table.c.id.type, sa.Integer):
                    sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                    following = f"coalesce((SELECT max(id) FROM {table.name}), 0) + 1"
                    connection.execute(sa.text(f"SELECT setval({sequence}, {following}, false)"))
        with database.read() as connection:
            assert schema.stored_revision(connection) == dump.stem


def _converted(table, row):
    """A row of SQLite, which knows few types, in those of the table."""
    for name, value in row.items():
        kind = table.c[name].type
        if value is not None and isinstance(kind, sa.JSON):
            row[name] = json.loads(value)
        elif value is not None and isinstance(kind, sa.DateTime):
            row[name] = datetime.fromisoformat(value)
        elif value is not None and isinstance(kind, sa.Boolean):
            row[name] = bool(value)
    return row


def _stored(dump):
    with closing(sqlite3.connect(dump)) as connection:
        rows = connection.execute("SELECT image_id, vector FROM vectors WHERE vector IS NOT NULL").fetchall()
    return {image_id: np.frombuffer(vector, "<f4").astype(np.float64) for image_id, vector in rows}


def _address(settings):
    url = settings.database_url
    return url.get_secret_value() if url else settings.catalog_path


def test_there_is_a_dump_of_every_schema():
    assert sorted(path.stem for path in DUMPS.glob("*.sql")) == sorted(schema.REVISIONS)


def test_no_migration_was_changed_since_its_dump_was_made(dump, tmp_path):
    """Whoever has that schema would never get the change."""
    with closing(Database.open(tmp_path / "made.sqlite", create=True)) as database, database.write() as connection:
        schema._upgrade(connection, dump.stem)
    assert _shape(tmp_path / "made.sqlite") == _shape(dump)


def _shape(path):
    """What SQLite says of its tables and indexes, but for white space."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"\s+", " ", text) for name, text in rows}


def test_everything_is_there_and_searches_answer_from_the_vectors_of_then(dump, settings):
    vectors = _stored(dump)
    assert sorted(vectors) == LIVE
    with ImageCollection(settings=settings, create=False) as collection:
        assert [image.image_id for image in collection.images()] == LIVE
        assert [(one.image_id, one.reason) for one in collection.failures()] == [("broken.jpg", "corrupt")]
        for image_id in LIVE:
            found = collection.search(Query(image_id=image_id)).results
            assert [one.image_id for one in found] == sorted(
                (other for other in LIVE if other != image_id),
                key=lambda other: ((vectors[other] - vectors[image_id]) ** 2).sum(),
            )
    with closing(Database.open(_address(settings), create=False)) as database, database.read() as connection:
        assert schema.stored_revision(connection) == schema.REVISIONS[-1]


def test_it_is_added_to_and_deleted_from(settings, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "new.jpg").write_bytes(jpeg(800))
    with ImageCollection(settings=settings, create=False) as collection:
        assert collection.index(tmp_path / "more").indexed == 1
        assert collection.delete_images(["0.jpg"]) == 1
        assert [image.image_id for image in collection.images()] == [*LIVE[1:], "new.jpg"]
        assert len(collection.search(Query(image_id="new.jpg")).results) == 4
