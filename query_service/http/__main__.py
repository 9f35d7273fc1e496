"""`python -m query_service.http`: serves the HTTP API and the web page until told to stop."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import ExitStack
from threading import Event
from time import monotonic

from query_service.async_client import AsyncSearchClient
from query_service.http.app import create_app
from query_service.http.listening import listen
from query_service.http.server import serve
from query_service.http.service import HttpService
from storage.settings import Settings
from workers.job_client import JobClient
from workers.machine.role_process import run_role
from workers.servers import connect_redis
from workers.signs.heartbeat import Heartbeat
from workers.signs.local_signs import LocalSigns

ROLE = "http"

_THREADS_SECONDS = 1.0

_log = logging.getLogger(__name__)


def run_http(settings: Settings, stop: Event) -> None:
    """Build the API from the settings and serve it until told to stop.

    Raises SettingsError, PortTaken, RedisUnavailable, RedisUnusable, BundledServerError and CatalogError when it
    cannot start.
    """
    with ExitStack() as parts:
        sockets = [parts.enter_context(one) for one in listen(settings)]  # first: what is most often wrong
        client = parts.enter_context(connect_redis(settings))
        jobs = parts.enter_context(JobClient(settings))
        searches = AsyncSearchClient(settings)  # closed by the application, in its loop
        heartbeat = parts.enter_context(Heartbeat(client, ROLE, signs=LocalSigns(settings)))
        app = create_app(HttpService(settings, jobs, searches, client.ping, stop, heartbeat.progress))
        host, port = sockets[0].getsockname()[:2]
        _log.info("ready: http://%s:%d/", f"[{host}]" if ":" in host else host, port)
        serve(app, sockets, stop)


def main() -> int:
    """Start with the settings of the environment and the TOML file; SIGTERM ends it after the current requests."""
    code = run_role(ROLE, run_http)
    if _hanging_threads():
        # Python waits for them without end, and what they still ask a silent server nobody wants to know any more
        logging.shutdown()
        os._exit(code)
    return code


def _hanging_threads() -> bool:
    """Whether threads that Python waits for are still at work after a moment: idle ones end by themselves."""
    end = monotonic() + _THREADS_SECONDS
    others = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, end - monotonic()))
    return any(thread.is_alive() for thread in others)


if __name__ == "__main__":
    sys.exit(main())
