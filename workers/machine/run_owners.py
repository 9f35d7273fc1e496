"""Runs in the job list that are no queued jobs: which process does one, and what becomes of those that were killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread

from storage.catalog import Catalog

PROCESS = "process"  # the option under which a run says who does it
_LOOKED_AT = 100  # newest runs and jobs of a collection


def this_process() -> str:
    """Host, process id, and when it began, since ids are used again."""
    return f"{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}"


def end_dead_runs(catalog: Catalog, collection_id: int) -> int:
    """Mark runs as interrupted whose process on this machine is no more; return how many. Others are left alone."""
    dead = [
        job
        for job in catalog.jobs.list(collection_id, _LOOKED_AT)
        if job.state == "running" and _is_dead(str(job.options.get(PROCESS, "")))
    ]
    for job in dead:
        catalog.jobs.finish(job.id, "interrupted", job.counts)
    return len(dead)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM is what Ctrl-C is: a KeyboardInterrupt, so that what is ready is kept and noted."""
    if current_thread() is not main_thread():  # only that one may take signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_dead(process: str) -> bool:
    """Whether it ran on this machine and does not any more; false where that cannot be told."""
    host, _, rest = process.partition(":")
    pid, _, began = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's, but it is there
        return False
    return began != _began(int(pid))


def _began(pid: int) -> str:
    """When the process began, in ticks since the machine did; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
