"""What holds on PostgreSQL only: clear errors, no password in any of them, restarts, processes at once."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import PASSWORD, PostgresServer

from storage.catalog import (
    Catalog,
    Generation,
    IndexBatch,
    IndexedImage,
    catalog_exists,
    catalog_of,
    catalog_place,
    tables,
)
from storage.catalog.commit import write_batch
from storage.catalog.database import postgres
from storage.catalog.database.engine import VERSION_TABLE
from storage.catalog.schema import stored_revision
from storage.errors import CatalogError, CatalogUnavailable, SchemaMismatch, SettingsError
from storage.records import ImageMetadata, ModelIdentity
from storage.settings import Settings, load_settings
from visual_search.overview import overview_of

ROOT = Path(__file__).parents[2]
MODEL = ModelIdentity(name="m", revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=4)
UNIT = np.array([1, 0, 0, 0], dtype=np.float32)


@pytest.fixture
def catalog(postgres_url: str) -> Iterator[Catalog]:
    with Catalog.open(postgres_url) as opened:
        yield opened


@pytest.mark.skipif(sys.platform != "linux", reason="other systems name these bounds otherwise")
def test_a_server_that_the_network_has_lost_is_given_up_within_a_minute(catalog: Catalog) -> None:
    """Each connection asks whether it is there while it waits; the system alone would find out in hours."""
    with catalog._database.read() as connection:
        raw: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(raw.fileno())) as seen:
            idle, between, times, unheard_ms = (
                seen.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
            assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert idle + between * times <= 60
    assert 0 < unheard_ms <= 60_000


@pytest.fixture
def generation(catalog: Catalog) -> Generation:
    return catalog.generations.ensure_active(catalog.collections.ensure("photos").id, MODEL)


@pytest.fixture
def second_server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server of this test's own, to be killed."""
    with postgres_server.another() as server:
        yield server


def images(count: int, name: str = "i") -> IndexBatch:
    return IndexBatch(upserts=[IndexedImage(ImageMetadata(image_id=f"{name}/{n}"), UNIT) for n in range(count)])


def shown(caught: pytest.ExceptionInfo[CatalogError]) -> str:
    """All that a log would say of the error, its causes included."""
    error: BaseException | None = caught.value
    messages = []
    while error is not None:
        messages.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(messages)


def commit_through_a_connection_that_breaks(catalog: Catalog, generation: Generation, batch: IndexBatch) -> None:
    with catalog._database.write() as connection:
        connection.exec_driver_sql("SELECT 1")
        cut_off(connection.connection.driver_connection)
        write_batch(connection, generation.id, batch)


class TestErrors:
    def test_a_wrong_password_is_refused_and_never_shown(self, postgres_server: PostgresServer) -> None:
        with pytest.raises(CatalogError, match="password authentication failed") as caught:
            Catalog.open(postgres_server.url("postgres", password="not-the-secret-one"))
        assert not caught.value.retryable
        assert "not-the-secret-one" not in shown(caught)

    def test_a_database_that_does_not_exist_is_named(self, postgres_server: PostgresServer) -> None:
        with pytest.raises(CatalogError, match=r'database "nowhere" does not exist') as caught:
            Catalog.open(postgres_server.url("nowhere"))
        assert not caught.value.retryable
        assert PASSWORD not in shown(caught)

    def test_a_server_that_is_not_there_can_be_asked_again(self, postgres_server: PostgresServer) -> None:
        url = postgres_server.url("postgres").replace(f":{postgres_server.port}/", ":1/")
        with pytest.raises(CatalogUnavailable, match="Connection refused|refused") as caught:
            Catalog.open(url)
        assert caught.value.retryable
        assert PASSWORD not in shown(caught)

    @pytest.mark.parametrize(
        "address",
        [
            "postgresql://user:hush/hush@host/db",
            "postgresql://user:hush@host:port/db",
            "postgresql+asyncpg://user:hush@host/db",
            "mysql://user:hush@host/db",
            "postgresql://user:hush@host",
        ],
    )
    def test_an_address_that_cannot_be_read_is_refused_without_its_password(self, address: str) -> None:
        with pytest.raises(CatalogError) as caught:
            Catalog.open(address)
        assert "hush" not in shown(caught)

    def test_an_option_that_the_driver_does_not_know_is_an_error_of_ours(self, postgres_url: str) -> None:
        with pytest.raises(CatalogError, match="colour"):
            Catalog.open(f"{postgres_url}?colour=blue")

    def test_missing_permissions_are_refused_and_leave_nothing(
        self, postgres_server: PostgresServer, bare_postgres_url: str
    ) -> None:
        name = bare_postgres_url.rsplit("/", 1)[1]
        postgres_server.execute(f"CREATE ROLE guest_{name} LOGIN PASSWORD 'guest'")
        with pytest.raises(CatalogError, match="permission denied") as caught:
            Catalog.open(postgres_server.url(name, f"guest_{name}", "guest"))
        assert not caught.value.retryable
        assert postgres_server.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", name) == []
        postgres_server.execute(f"DROP ROLE guest_{name}")

    def test_a_database_that_cannot_hold_every_id_is_refused(self, postgres_server: PostgresServer) -> None:
        postgres_server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        with pytest.raises(CatalogError, match=r"LATIN1.*UTF8"):
            Catalog.open(postgres_server.url("latin"))
        postgres_server.execute("DROP DATABASE latin")

    def test_a_newer_schema_is_refused(self, postgres_server: PostgresServer, postgres_url: str) -> None:
        name = postgres_url.rsplit("/", 1)[1]
        postgres_server.execute("UPDATE catalog_version SET version_num = '9999'", name)
        with pytest.raises(SchemaMismatch, match=r"9999.*upgrade"):
            Catalog.open(postgres_url)

    def test_tables_of_another_program_are_left_alone(
        self, postgres_server: PostgresServer, bare_postgres_url: str
    ) -> None:
        name = bare_postgres_url.rsplit("/", 1)[1]
        postgres_server.execute("CREATE TABLE images (theirs integer)", name)
        with pytest.raises(CatalogError, match=r'"images" already exists'):
            Catalog.open(bare_postgres_url)
        tables = postgres_server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name)
        assert tables == [("images",)]

    def test_without_create_an_empty_database_stays_empty(
        self, postgres_server: PostgresServer, bare_postgres_url: str
    ) -> None:
        with pytest.raises(CatalogUnavailable, match="no catalog"):
            Catalog.open(bare_postgres_url, create=False)
        name = bare_postgres_url.rsplit("/", 1)[1]
        assert postgres_server.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'public'", name) == []


class TestSchema:
    def test_processes_that_open_a_new_database_at_once_make_one_schema(self, bare_postgres_url: str) -> None:
        program = (
            "import sys; from storage.catalog import Catalog; print('ready', flush=True); sys.stdin.readline();"
            "Catalog.open(sys.argv[1]).close()"
        )
        opening = [
            subprocess.Popen(
                [sys.executable, "-c", program, bare_postgres_url],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in opening:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
        for process in opening:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in opening:
            process.communicate(timeout=180)
        assert [process.returncode for process in opening] == [0, 0, 0]

    def test_the_migrations_lead_to_the_tables_that_the_program_uses(self, catalog: Catalog) -> None:
        with catalog._database.read() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            assert compare_metadata(context, tables.metadata) == []

    def test_vectors_are_kept_uncompressed(self, postgres_server: PostgresServer, postgres_url: str) -> None:
        name = postgres_url.rsplit("/", 1)[1]
        kind = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'vectors'::regclass AND attname = 'vector'"
        assert postgres_server.execute(kind, name) == [("e",)]

    def test_either_way_to_write_the_address_is_taken(self, postgres_url: str) -> None:
        with Catalog.open(postgres_url.replace("postgresql://", "postgresql+psycopg://"), create=False) as opened:
            assert opened.collections.list() == []


class TestTrouble:
    def test_a_restarted_server_is_used_again_without_an_error(self, second_server: PostgresServer) -> None:
        """Pooled connections that died meanwhile are replaced; what was committed before the crash is there."""
        with Catalog.open(second_server.url(second_server.make_database())) as catalog:
            generation = catalog.generations.ensure_active(catalog.collections.ensure("photos").id, MODEL)
            assert catalog.commit(generation.id, images(100)) == 100
            second_server.stop(signal.SIGQUIT)
            with pytest.raises(CatalogUnavailable) as caught:
                catalog.commit(generation.id, images(100, "lost"))
            assert caught.value.retryable
            second_server.start()
            assert catalog.commit(generation.id, images(100, "later")) == 200
            assert catalog.images.count(generation.collection_id) == 200

    @pytest.mark.parametrize("count", [1, 500])
    def test_a_connection_cut_off_in_a_commit_leaves_nothing_of_it(
        self, catalog: Catalog, generation: Generation, count: int
    ) -> None:
        batch = images(count)
        with pytest.raises(CatalogUnavailable):
            commit_through_a_connection_that_breaks(catalog, generation, batch)
        assert catalog.images.count(generation.collection_id) == 0
        assert catalog.commit(generation.id, batch) == count

    def test_copy_into_a_broken_connection_is_an_error_of_ours(self, catalog: Catalog) -> None:
        names = ["generation_id", "image_id", "seq", "sha256", "vector"]
        with pytest.raises(CatalogError), catalog._database.write() as connection:
            postgres.copy_rows(connection, tables.vectors, names, iter([(1, "nul\0", 1, None, None)]))
        assert catalog.collections.list() == []

    def test_waiting_for_a_lock_ends(
        self, catalog: Catalog, generation: Generation, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(postgres._SESSION, "lock_timeout", "100ms")
        with psycopg.connect(postgres_url) as other, Catalog.open(postgres_url) as impatient:
            other.execute("SELECT 1 FROM generations FOR UPDATE")
            with pytest.raises(CatalogUnavailable, match="lock timeout"):
                impatient.commit(generation.id, images(1))
        assert catalog.commit(generation.id, images(1)) == 1

    def test_a_process_frozen_inside_a_transaction_does_not_hold_others_for_ever(
        self, catalog: Catalog, generation: Generation, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(postgres._SESSION, "idle_in_transaction_session_timeout", "200ms")
        with Catalog.open(postgres_url) as frozen, frozen._database._writers.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM generations FOR UPDATE")
            assert catalog.commit(generation.id, images(1)) == 1  # waits until the server hangs up
            connection.invalidate()


class TestSettings:
    @pytest.fixture
    def settings(self, postgres_url: str, tmp_path: Path) -> Settings:
        return load_settings(data_dir=tmp_path / "data", database_url=postgres_url)

    def test_the_settings_choose_the_database(self, settings: Settings) -> None:
        assert catalog_exists(settings)
        with catalog_of(settings) as catalog, catalog._database.read() as connection:
            assert connection.dialect.name == "postgresql"
            assert stored_revision(connection) is not None
        assert not settings.catalog_path.exists()
        assert PASSWORD not in catalog_place(settings)

    def test_an_empty_database_holds_no_catalog_yet(self, bare_postgres_url: str, tmp_path: Path) -> None:
        settings = load_settings(data_dir=tmp_path, database_url=bare_postgres_url)
        assert not catalog_exists(settings)

    def test_without_an_address_the_catalog_is_a_file(self, tmp_path: Path) -> None:
        settings = load_settings(data_dir=tmp_path)
        assert not catalog_exists(settings)
        assert catalog_place(settings) == str(tmp_path)
        with catalog_of(settings) as catalog:
            assert catalog.size_bytes() > 0
        assert catalog_exists(settings)

    def test_the_overview_names_the_database_and_its_size(self, settings: Settings) -> None:
        with catalog_of(settings) as catalog:
            catalog.collections.ensure("photos")
            overview = overview_of(catalog, settings)
        assert overview.catalog == catalog_place(settings)
        assert "127.0.0.1" in overview.catalog
        assert overview.catalog_bytes > 1_000_000
        assert [one.name for one in overview.collections] == ["photos"]

    def test_the_password_stays_out_of_the_log(
        self, bare_postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            catalog_of(load_settings(data_dir=tmp_path, database_url=bare_postgres_url)).close()
        assert "schema none ->" in caplog.text
        assert PASSWORD not in caplog.text

    def test_another_kind_of_database_is_refused_by_the_settings(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="database_url"):
            load_settings(data_dir=tmp_path, database_url="mysql://host/db")


def cut_off(connection: object) -> None:
    """End the server's side of this connection, as an administrator or a network failure does."""
    assert isinstance(connection, psycopg.Connection)
    with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
