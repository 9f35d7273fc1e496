"""One embed worker process: `python -m workers.embed_worker`. Builds its parts, takes batches, stops cleanly.

Celery's solo pool runs the tasks in the process itself: one process, one model, nothing forked after torch was loaded
(a child of such a process hangs), and whoever starts it sees at once when it dies. More workers are more processes.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import warnings
from contextlib import ExitStack
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning

from storage.catalog import catalog_of
from storage.settings import Settings
from workers.celery_app import EMBED_QUEUE, make_app
from workers.embed_batches import BatchEmbedder
from workers.errors import RedisUnavailable
from workers.machine.role_process import run_process
from workers.machine.stopping import StopRequest
from workers.result_stream import ResultStream
from workers.servers import connect_redis
from workers.signs.heartbeat import Heartbeat
from workers.signs.local_signs import LocalSigns
from workers.tasks import register_embed_task

_LOG = logging.getLogger(__name__)

ROLE = "embed"

_WORDY = ("celery.worker.strategy", "celery.app.trace")  # each tells of every batch what our own two lines tell better


def run_worker(settings: Settings) -> None:
    """Take batches until told to stop by SIGTERM or SIGINT; then finish the batch, or give it back after 8 s.

    Raises RedisUnavailable, RedisUnusable, BundledServerError and CatalogError when it cannot start; RedisUnavailable
    also when Celery gives up, as it does where Redis has no memory left.
    """
    stop = StopRequest()
    with ExitStack() as parts:
        client = parts.enter_context(connect_redis(settings))
        catalog = parts.enter_context(catalog_of(settings))
        heartbeat = parts.enter_context(Heartbeat(client, ROLE, signs=LocalSigns(settings)))
        app = make_app(settings)
        parts.callback(app.close)
        stream = ResultStream(client, settings.stream_messages)
        register_embed_task(app, BatchEmbedder(settings, catalog, stream, heartbeat, stop))
        _serve(app, stop)


def _serve(app: Celery, stop: StopRequest) -> None:
    def ready(**_kwargs: Any) -> None:
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # Celery would drop the batch at Ctrl-C
        _LOG.info("ready: takes batches from the queue '%s'", EMBED_QUEUE)

    def stopping(**_kwargs: Any) -> None:
        stop.ask()

    def keep_our_logging(**_kwargs: Any) -> None:
        """Without a receiver of this signal Celery sets the root logger to its own level."""

    signals.setup_logging.connect(keep_our_logging)
    for name in _WORDY:
        logging.getLogger(name).setLevel(logging.WARNING)
    signals.worker_ready.connect(ready)
    signals.worker_shutting_down.connect(stopping)
    worker = app.Worker(
        pool_cls="solo",
        queues=[EMBED_QUEUE],
        hostname=f"{ROLE}-{os.getpid()}@{socket.gethostname()}",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    if worker.exitcode:  # Celery logged why, and would end as if all were well
        raise RedisUnavailable(f"Celery ended by an error (its code {worker.exitcode}); start this worker again")


def main() -> int:
    """Start with the settings of the environment and the TOML file."""
    # In a container a worker is root of nothing but the container; Celery's warning is five lines at each start
    warnings.filterwarnings("ignore", category=SecurityWarning)
    return run_process(ROLE, run_worker)


if __name__ == "__main__":
    sys.exit(main())
