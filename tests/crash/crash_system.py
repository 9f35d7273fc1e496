"""The system under test of a crash run: real servers and roles, restarted a moment after they die, as `up` would."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from databases import PostgresServer
from servers import ROOT, ValkeyServer, environment_of, free_port

from storage.settings import Schedule, Settings

ROLES = ("worker-1", "worker-2", "aggregator", "beat")
MODULES = {"worker": "workers.embed_worker", "aggregator": "workers.aggregator", "beat": "workers.beat"}
POISON = "kills whoever decodes it"
_RESTART_SECONDS = 0.3
_DECODE_SECONDS = 0.5  # a picture; eight at once, so that a job lasts some seconds and faults hit it while it runs
_RUNNER = Path(__file__).with_name("role_with_failpoint.py")


@dataclass
class CrashSystem:
    """Roles by name; whoever ends is started again, without its failpoint, until `stop`."""

    folder: Path
    settings: Settings
    valkey: ValkeyServer
    postgres: PostgresServer | None
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    deaths: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _watcher: threading.Thread | None = None

    @property
    def fired(self) -> Path:
        """A line for each failpoint that a process died at."""
        return self.folder / "fired.txt"

    def start_all(self, failpoints: dict[str, list[str]]) -> None:
        """Start every role, some of them with a failpoint, and the watcher that restarts them."""
        for name in ROLES:
            self.start(name, failpoints.get(name, []))
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def start(self, name: str, failpoint: list[str] | None = None) -> None:
        """Start one process of a role under a name of its own."""
        module = MODULES[name.split("-", 1)[0]]
        command = [sys.executable, str(_RUNNER), module, "--poison", POISON, "--decode-seconds", str(_DECODE_SECONDS)]
        command += ["--fired", str(self.fired), *(failpoint or [])]
        with self._lock, (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**environment_of(self.settings), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """Send SIGKILL."""
        with self._lock:
            process = self.running.get(name)
            if process is not None and process.poll() is None:
                process.kill()

    def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP past its lease, then wake it."""
        process = self.running[name]
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            wait_a_moment(seconds)
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End everything."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + 15
        for process in self.running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def tails(self, lines: int = 15) -> str:
        """The ends of all logs."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-lines:]) for log in logs)

    def seen(self, words: Mapping[str, str]) -> Counter[str]:
        """How many lines of the logs hold these words, by what they mean."""
        text = "".join(log.read_text() for log in self.folder.glob("*.log"))
        return Counter({meaning: count for word, meaning in words.items() if (count := text.count(word))})

    def _watch(self) -> None:
        while not self._stopping.wait(_RESTART_SECONDS):
            with self._lock:
                dead = [name for name, process in self.running.items() if process.poll() is not None]
                for name in dead:
                    self.deaths += 1
                    self.start(name)


def wait_a_moment(seconds: float) -> None:
    """Let the system run as it is."""
    time.sleep(seconds)


def crash_settings(folder: Path, valkey: ValkeyServer, database_url: str | None, *, max_attempts: int) -> Settings:
    """Short times, so that minutes show what days would; the beat syncs the very photos that are submitted."""
    return Settings(
        data_dir=folder / "data",
        redis_url=valkey.url,
        model="baseline",
        batch_images=8,
        lease_seconds=2,
        sweep_seconds=0.5,
        resend_seconds=2,
        max_attempts=max_attempts,
        snapshot_changes=40,
        snapshot_seconds=1,
        snapshot_address=str(folder / "disk" / "snapshots"),
        schedules=[Schedule(cron="* * * * *", action="sync", source=str(folder / "photos"))],
        **({"database_url": database_url} if database_url else {}),
    )


def new_valkey(folder: Path) -> ValkeyServer:
    """A server with an append-only file, started."""
    (folder / "valkey").mkdir()
    server = ValkeyServer(folder / "valkey", free_port())
    server.start()
    return server


def seeded(seed: int, run: int) -> random.Random:
    """The choices of one run."""
    return random.Random(f"{seed}/{run}")
