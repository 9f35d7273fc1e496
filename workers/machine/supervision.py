"""Runs several processes in one terminal: prefixed output, a new start after a crash, an end that leaves none behind.

Knows nothing of what the processes do. Only this file knows honcho.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from queue import Empty, Queue
from threading import Thread
from time import monotonic
from types import FrameType
from typing import TextIO

# Why honcho, and so little of it: it starts a process in a session of its own and prints lines the way people know
# from Foreman. Its Manager ends everything when one process ends (by intention: its issue 175), so looking after
# them is ours. circus does restart, but opens a control port without a password and brings ZeroMQ and Tornado;
# supervisor is a daemon with log files, not a terminal.
from honcho.colour import get_colours
from honcho.compat import ProcessManager
from honcho.printer import Message, Printer
from honcho.process import Popen

SUPERVISOR_NAME = "up"
_POLL_SECONDS = 0.1  # how late a crash is noticed
_TICK_SECONDS = 2.0  # between two calls of `tick`
_WAITING_LINES = 1000  # output not printed yet; a process that writes more waits, as on a slow terminal
_LAST_LINES_SECONDS = 1.0  # for what an ended process still has in its pipe


@dataclass(frozen=True)
class Role:
    """One process to keep running: its name before each line, its command, what it adds to the environment."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """How long the supervisor waits."""

    first_pause_seconds: float = 0.5  # before a crashed process starts again; twice as long after each crash
    longest_pause_seconds: float = 30.0
    steady_seconds: float = 60.0  # a process that ran for so long crashed once, not again
    grace_seconds: float = 30.0  # from SIGTERM to SIGKILL: a worker may finish what it embeds


class Supervisor:
    """Keeps the roles running until SIGINT, SIGTERM or SIGHUP, then ends them all; a second signal kills at once.

    Runs in the main thread, for only that one gets signals.
    """

    def __init__(self, roles: Sequence[Role], output: TextIO, patience: Patience | None = None) -> None:
        self._lines: Queue[Message] = Queue(_WAITING_LINES)
        self._patience = patience or Patience()
        colours = get_colours()
        self._processes = [_Process(role, next(colours), self._lines, self._patience) for role in roles]
        width = max(len(name) for name in (SUPERVISOR_NAME, *(role.name for role in roles)))
        self._printer = Printer(output, width=width, colour="NO_COLOR" not in os.environ)
        self._signals = 0

    def run(self, tick: Callable[[], None] = lambda: None) -> bool:
        """Run until a signal comes, calling `tick` every two seconds; whether all processes then ended in time."""
        ticked = monotonic()
        with self._signals_counted():
            try:
                while not self._signals:
                    self._look_after()
                    self._print_lines(_POLL_SECONDS)
                    if monotonic() - ticked >= _TICK_SECONDS:
                        tick()
                        ticked = monotonic()
            finally:
                in_time = self._end()
        return in_time

    def say(self, text: str) -> None:
        """Print a line of the supervisor's own."""
        self._print(Message("line", text, datetime.now(), SUPERVISOR_NAME, None))  # noqa: DTZ005 - the wall clock's time

    def _look_after(self) -> None:
        for process in self._processes:
            if (news := process.look_after()) is not None:
                self.say(news)

    def _end(self) -> bool:
        self.say("stopping")
        for process in self._processes:
            process.terminate()
        deadline = monotonic() + self._patience.grace_seconds
        while any(process.runs() for process in self._processes) and monotonic() < deadline and self._signals < 2:
            self._print_lines(_POLL_SECONDS)
        late = [process for process in self._processes if process.runs()]
        for process in self._processes:
            process.kill()  # the late ones, and whatever the others started and left behind
        while any(process.reads() for process in self._processes) or not self._lines.empty():
            self._print_lines(_POLL_SECONDS)
        self.say(f"killed {', '.join(process.role.name for process in late)}" if late else "all ended")
        return not late

    def _print_lines(self, seconds: float) -> None:
        """Print what has come, waiting so long for the first line."""
        try:
            message = self._lines.get(timeout=seconds)
            while True:
                self._print(message)
                message = self._lines.get_nowait()
        except Empty:
            return

    def _print(self, message: Message) -> None:
        try:
            self._printer.write(message)
        except OSError:  # the terminal or the reader of the pipe is gone: the same as SIGHUP
            self._signals = max(1, self._signals)

    @contextmanager
    def _signals_counted(self) -> Iterator[None]:
        def count(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        wanted = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup means it
            wanted.append(signal.SIGHUP)
        before = {number: signal.signal(number, count) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Process:
    """The process of one role: started, looked after, ended. Its lines go to the queue."""

    def __init__(self, role: Role, colour: str, lines: Queue[Message], patience: Patience) -> None:
        self.role = role
        self._colour = colour
        self._lines = lines
        self._patience = patience
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: Thread | None = None
        self._started = self._due = self._read_until = monotonic()
        self._crashes = 0

    def look_after(self) -> str | None:
        """Start the process when it is due, plan a new start when it has ended; the news, if any."""
        if self._child is None:
            return self._start() if monotonic() >= self._due else None
        code = self._child.poll()
        return None if code is None else self._plan_restart(f"{self.role.name} {_how_it_ended(code)}")

    def runs(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._child is not None and self._child.poll() is None

    def reads(self) -> bool:
        """Whether lines of an ended process may still come."""
        return self._reader is not None and self._reader.is_alive() and monotonic() < self._read_until

    def terminate(self) -> None:
        """Ask the process itself, not those that it started: it knows how to end them."""
        if self._child is not None:
            self._child.terminate()

    def kill(self) -> None:
        """Kill the process and all that it started in its session, and wait for it."""
        if self._child is not None:
            ProcessManager().kill(self._child.pid)
            self._child.wait()
            self._read_until = monotonic() + _LAST_LINES_SECONDS

    def _start(self) -> str:
        self._started = monotonic()
        try:
            self._child = Popen(
                self.role.command,
                shell=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.role.environment},
            )
        except OSError as error:
            return self._plan_restart(f"{self.role.name} cannot be started: {error}")
        self._reader = Thread(target=self._read, args=(self._child,), daemon=True)
        self._reader.start()
        return f"{self.role.name} started (pid {self._child.pid})"

    def _read(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdout is not None:
            with child.stdout as output:
                for line in output:
                    self._lines.put(Message("line", line, datetime.now(), self.role.name, self._colour))  # noqa: DTZ005

    def _plan_restart(self, what: str) -> str:
        if self._child is not None:
            ProcessManager().kill(self._child.pid)  # what the crashed process started must not live beside the new one
            self._child = None
        self._crashes = 0 if monotonic() - self._started >= self._patience.steady_seconds else self._crashes
        pause = min(self._patience.longest_pause_seconds, self._patience.first_pause_seconds * 2**self._crashes)
        self._crashes += 1
        self._due = monotonic() + pause
        return f"{what}; starting it again in {pause:g} s"


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {one.value: one.name for one in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"
