"""Opening SQLite, its transactions, and the errors that come of it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from storage.catalog import Catalog, Generation, IndexBatch, IndexedImage, tables
from storage.catalog.database.column_types import UtcDateTime
from storage.catalog.database.engine import Database
from storage.errors import CatalogError, CatalogUnavailable, SchemaMismatch
from storage.records import ImageMetadata, ModelIdentity

ROOT = Path(__file__).parents[2]
MODEL = ModelIdentity(name="m", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=4)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(tmp_path / "catalog.db") as opened:
        yield opened


@pytest.fixture
def generation(catalog: Catalog) -> Generation:
    return catalog.generations.ensure_active(catalog.collections.ensure("photos").id, MODEL)


def batch(count: int, name: str = "image") -> IndexBatch:
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    return IndexBatch(
        upserts=[IndexedImage(ImageMetadata(image_id=f"{name}-{number}"), vector) for number in range(count)]
    )


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may write everywhere: step down for a moment where the tests run as root."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_every_connection_has_our_pragmas(catalog: Catalog) -> None:
    expected = {
        "page_size": 16384,
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }
    with catalog._database.read() as first, catalog._database.read() as second:
        for connection in (first, second):
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
            assert found == expected


def test_a_path_and_its_url_open_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    with Catalog.open(str(path)) as by_path:
        by_path.collections.ensure("photos")
    with Catalog.open(f"sqlite:///{path.as_posix()}") as by_url:
        assert by_url.collections.get("photos").name == "photos"


def test_importing_opens_nothing(tmp_path: Path) -> None:
    program = "import storage.catalog, os; print(os.listdir('.'))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(CatalogUnavailable, match=r"notes\.txt.*not a database"):
        Catalog.open(path)
    assert path.read_text().startswith("not a database")


def test_another_programs_database_is_refused_and_not_changed_by_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE albums (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match="another program"):
        Catalog.open(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos.sqlite"]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="is a folder"):
        Catalog.open(tmp_path)


def test_a_place_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CatalogUnavailable, match="cannot be opened"):
        Catalog.open(tmp_path / "file" / "catalog.db")


def test_a_missing_catalog_is_not_made_when_it_should_be_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "catalog.db"
    with pytest.raises(CatalogUnavailable, match="no catalog"):
        Catalog.open(path, create=False)
    assert not path.parent.exists()


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "nosuch://x", "sqlite+nosuch:///x", "://"])
def test_an_address_that_keeps_nothing_or_has_no_driver_is_refused(address: str) -> None:
    with pytest.raises(CatalogUnavailable):
        Catalog.open(address)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other permissions")
def test_a_read_only_place_is_a_clear_error() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Catalog.open(folder / "old.db").close()
        folder.chmod(0o555)
        with as_ordinary_user():
            with pytest.raises(CatalogUnavailable, match=r"new\.db.*unable to open"):
                Catalog.open(folder / "new.db")
            with pytest.raises(CatalogUnavailable, match=r"deeper.*Permission denied"):
                Catalog.open(folder / "deeper" / "new.db")
            with pytest.raises(CatalogUnavailable, match=r"old\.db"):
                Catalog.open(folder / "old.db")
        folder.chmod(0o755)


def test_a_database_locked_for_too_long_can_be_retried(
    catalog: Catalog, generation: Generation, tmp_path: Path
) -> None:
    with catalog._database.read() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")  # the pool gives this connection out again
    with closing(sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CatalogUnavailable, match="locked") as caught:
            catalog.commit(generation.id, batch(1))
        assert caught.value.retryable
        other.execute("ROLLBACK")
    assert catalog.commit(generation.id, batch(1)) == 1


def test_a_full_disk_leaves_the_last_commit_whole(catalog: Catalog, generation: Generation) -> None:
    catalog.commit(generation.id, batch(10, "before"))
    with catalog._database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CatalogUnavailable, match="full"):
        catalog.commit(generation.id, batch(2000, "after"))
    with catalog._database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert catalog.images.count(generation.collection_id) == 10
    assert catalog.commit(generation.id, batch(2000, "after")) == 2010


def test_reading_goes_on_while_another_writes(catalog: Catalog, generation: Generation) -> None:
    with catalog._database.write():
        assert catalog.images.count(generation.collection_id) == 0


def test_what_one_transaction_reads_no_other_changes_before_it_writes(catalog: Catalog, generation: Generation) -> None:
    """With SQLAlchemy's own way to begin transactions on SQLite, such updates were lost."""
    column = tables.generations.c

    def add_one_often() -> None:
        for _ in range(25):
            with catalog._database.write() as connection:
                seen = connection.execute(select(column.last_seq).where(column.id == generation.id)).scalar_one()
                changed = update(tables.generations).where(column.id == generation.id)
                connection.execute(changed.values(last_seq=seen + 1))

    threads = [threading.Thread(target=add_one_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [after] = catalog.generations.list(generation.collection_id)
    assert after.last_seq == 100


def test_an_error_inside_a_transaction_rolls_it_back(catalog: Catalog) -> None:
    def fail() -> None:
        with catalog._database.write() as connection:
            row = {"name": "lost", "created_at": datetime.now(timezone.utc)}
            connection.execute(tables.collections.insert().values(row))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert catalog.collections.list() == []


def test_a_vector_of_the_wrong_size_is_found_when_read(catalog: Catalog, generation: Generation) -> None:
    catalog.commit(generation.id, batch(2))
    with catalog._database.write() as connection:
        connection.execute(update(tables.vectors).where(tables.vectors.c.seq == 2).values(vector=b"\0" * 15))
    with pytest.raises(CatalogError, match="15 bytes where 16 belong"):
        list(catalog.feed.changes(generation.id))


def test_too_many_threads_at_once_is_an_error_of_ours(tmp_path: Path) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(
        f"sqlite:///{(tmp_path / 'x.db').as_posix()}", pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    database = Database(engine)
    with database.read(), pytest.raises(CatalogUnavailable, match="too many threads"), database.read():
        pass
    database.close()


class TestMoments:
    KIND = UtcDateTime()

    def test_another_zone_becomes_utc_on_both_databases(self) -> None:
        noon = datetime(2026, 7, 4, 12, tzinfo=timezone(timedelta(hours=2)))
        for dialect in (sqlite.dialect(), postgresql.dialect()):  # type: ignore[no-untyped-call]
            stored = self.KIND.process_bind_param(noon, dialect)
            back = self.KIND.process_result_value(stored, dialect)
            assert back == noon
            assert back is not None
            assert back.utcoffset() == timedelta(0)

    def test_a_moment_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no timezone"):
            self.KIND.process_bind_param(datetime(2026, 7, 4), sqlite.dialect())  # type: ignore[no-untyped-call]  # noqa: DTZ001
