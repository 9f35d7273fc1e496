"""Real servers and roles for the benchmarks: those of the tests, in a temporary folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import time
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from databases import _binaries, running_server  # noqa: E402
from servers import ValkeyServer, environment_of, free_port, wait_for  # noqa: E402

from storage.catalog import JobProgress  # noqa: E402
from storage.settings import Settings  # noqa: E402
from workers.job_client import JobClient  # noqa: E402

__all__ = ["System", "free_port", "new_postgres_databases", "running", "wait_for"]

_READY_SECONDS = 120
_LOOK_SECONDS = 0.5  # a look at a job costs a millisecond of the cores that are measured


class System:
    """One data folder with a Valkey, SQLite or PostgreSQL, and the roles that were started."""

    def __init__(self, folder: Path, parts: ExitStack, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self._parts = parts

    @property
    def redis_url(self) -> str:
        """Where its Valkey is, database 0."""
        return str(self.settings.redis_url and self.settings.redis_url.get_secret_value())

    def start(self, module: str, *, ready: str = "ready", **environment: str) -> subprocess.Popen[bytes]:
        """Start a role as a process and wait until it says that it is ready."""
        log = self.folder / f"{module}-{free_port()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=self.folder,
                env={**environment_of(self.settings), "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._parts.callback(_end, process)
        wait_for(lambda: ready in log.read_text() or process.poll() is not None, seconds=_READY_SECONDS, what=module)
        if process.poll() is not None:
            sys.exit(f"{module} ended with {process.returncode}:\n{log.read_text()}")
        return process

    def index(self, folder: Path) -> tuple[JobProgress, float]:
        """Submit a folder and wait; how the job ended, and its seconds from `submit` to the last commit.

        The end is what the catalog says, so that nobody has to ask for it often.
        """
        with JobClient(self.settings) as client:
            started = time()
            job = client.submit(folder)
            for progress in client.watch(job.job.id, seconds=_LOOK_SECONDS):
                job = progress
        if job.job.finished_at is None:
            sys.exit(f"job {job.job.id} is {job.job.state} and has no end: there is no figure")
        return job, job.job.finished_at.timestamp() - started


@contextmanager
def running(database: str = "sqlite", **settings: Any) -> Iterator[System]:
    """A system with its servers started and no role yet; everything is ended and removed at the end."""
    with ExitStack() as parts:
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="visual-search-bench-")))
        (folder / "valkey").mkdir()
        # as deployed: with an append-only file that is synced every second
        valkey = ValkeyServer(folder / "valkey", free_port(), ("--appendfsync", "everysec"))
        valkey.start()
        parts.callback(valkey.kill)
        given: dict[str, Any] = {"data_dir": folder / "data", "redis_url": valkey.url, "model": "baseline", **settings}
        if database == "postgresql":
            server = parts.enter_context(running_server(_binaries()))
            given["database_url"] = server.url(server.make_database())
        yield System(folder, parts, Settings(**given))


@contextmanager
def new_postgres_databases() -> Iterator[Callable[[], str]]:
    """Makes addresses of empty databases on one PostgreSQL; the one before is removed."""
    with running_server(_binaries()) as server:
        made: list[str] = []

        def new_database() -> str:
            while made:
                server.execute(f"DROP DATABASE {made.pop()} WITH (FORCE)")
            made.append(server.make_database())
            return server.url(made[0])

        yield new_database


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
