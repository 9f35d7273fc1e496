"""The query worker: `python -m query_service.worker` takes all searches that wait, answers them together, replies.

Killed at any point it loses no search: what it held is taken over by another worker. It never exits because Redis
or PostgreSQL is away, and waits for them at its start.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
from contextlib import ExitStack, closing
from functools import partial
from threading import Event, Thread
from typing import Any

from query_service.answers.answering import Answering
from query_service.answers.preloaded_models import PreloadedModels
from query_service.serving.search_loop import QueryWorker
from query_service.serving.served import LOADING_THREADS, ServedCollections
from query_service.serving.taken_requests import RequestQueue
from query_service.serving.waiting_for_servers import opened_when_there
from storage.catalog import Catalog, Generation, catalog_of
from storage.errors import VisualSearchError
from storage.settings import Settings
from storage.snapshots import snapshots_of
from workers.change_hints import hear_changes
from workers.errors import RedisUnavailable, RedisUnusable
from workers.machine.role_process import run_role
from workers.servers import connect_redis
from workers.signs.heartbeat import BEAT_SECONDS, LOADING, Heartbeat, Sign, read_signs
from workers.signs.local_signs import LocalSigns

ROLE = "query_worker"

_LOAD_SECONDS = 10.0  # for which the ready line waits; where nobody else answers, slower collections come later
_END_SECONDS = 20.0  # after SIGTERM; `visual-search up` waits for 30
_LAST_SECONDS = 3.0  # for the thread that hears hints, to end
_SILENT_SECONDS = 3 * BEAT_SECONDS  # another worker that gave no sign for so long does not answer

_log = logging.getLogger(__name__)


def run_worker(settings: Settings, stop: Event) -> None:
    """Build the worker from the settings and run it until told to stop; waits for servers that are away.

    Raises RedisUnusable, BundledServerError, CatalogError and StorageError when it can never start.
    """
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    with ExitStack() as parts:
        client = _connected(settings, stop)
        if client is None:
            return
        parts.enter_context(client)
        catalog = _catalog(settings, stop)
        if catalog is None:
            return
        parts.enter_context(catalog)
        models = PreloadedModels(settings)
        answering = parts.enter_context(closing(Answering(catalog, models, worker=name)))
        snapshots = snapshots_of(settings, catalog)
        served = parts.enter_context(ServedCollections(catalog, snapshots, lambda one: _load_model(models, one)))
        hearing = Thread(target=hear_changes, args=(client, served.hint, stop), name="hints", daemon=True)
        hearing.start()
        parts.callback(hearing.join, _LAST_SECONDS)  # else Redis is silent
        parts.callback(stop.set)  # also when an error that nobody expected ends us: else that thread never would
        heartbeat = Heartbeat(client, ROLE, signs=LocalSigns(settings))
        heartbeat.progress(doing=LOADING)
        parts.enter_context(heartbeat)
        _wait_until_loaded(served, client, heartbeat, stop)
        queue = RequestQueue(client, name, settings.search_batch)
        heartbeat.progress(doing="")
        heartbeat.post()  # so that whoever reads "ready" finds a worker that says the same
        _log.info("ready: %s searches %s", name, ", ".join(sorted(served.current())) or "no collection yet")
        QueryWorker(queue, served, answering, heartbeat.progress).run(stop)


def _wait_until_loaded(served: ServedCollections, client: Any, heartbeat: Heartbeat, stop: Event) -> None:
    """Until everything is loaded, so that no search comes to us that another worker could answer already.

    When there is no such worker only for some seconds: then searches are told that their collection is loading.
    """
    while not served.wait_until_loaded(_LOAD_SECONDS, stop) and not stop.is_set():
        try:
            signs = read_signs(client)
        except (RedisUnavailable, RedisUnusable):
            return
        others = [sign for sign in signs if (sign.record.role, sign.record.process) != (ROLE, heartbeat.process)]
        if not any(_answers(sign) for sign in others):
            return


def _answers(sign: Sign) -> bool:
    ours = sign.record.role == ROLE and sign.record.doing != LOADING
    return ours and sign.silent_seconds < _SILENT_SECONDS


def _connected(settings: Settings, stop: Event) -> Any:
    """A Redis client, or None when told to stop before it answered. The bundled server is started if need be."""
    if settings.redis_url is None:
        return connect_redis(settings)
    return opened_when_there(partial(connect_redis, settings), "Redis", stop)


def _catalog(settings: Settings, stop: Event) -> Catalog | None:
    """None when told to stop before PostgreSQL answered. A SQLite file that cannot be opened now never can."""
    if settings.database_url is None:
        return catalog_of(settings)
    return opened_when_there(partial(catalog_of, settings), "the catalog", stop)


def _load_model(models: PreloadedModels, generation: Generation) -> None:
    """So that the first picture or words need not wait. Ids and vectors are searched without a model too."""
    try:
        models.get(generation.model)
    except VisualSearchError as error:
        _log.warning("searches by picture or words will fail: %s", error)


def _run_in_time(settings: Settings, stop: Event) -> None:
    """Run, and end in time although a server is silent: what this process holds is taken over, as after any death."""
    over = Event()

    def end_in_time() -> None:
        stop.wait()
        if not over.wait(_END_SECONDS):
            _log.warning("told to stop %g s ago, and still waiting for a server: ended without it", _END_SECONDS)
            logging.shutdown()
            os._exit(0)

    Thread(target=end_in_time, name="end", daemon=True).start()
    try:
        run_worker(settings, stop)
    finally:
        over.set()


def main() -> int:
    """Start with the settings of the environment and the TOML file; SIGTERM ends it after the current batch."""
    code = run_role(ROLE, _run_in_time)
    if any(thread.name.startswith(LOADING_THREADS) for thread in threading.enumerate()):
        # Python waits for pool threads; what these still load, perhaps for a minute, nobody wants any more
        logging.shutdown()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
