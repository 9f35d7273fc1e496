"""Whether the process lives (`/healthz`), whether it can serve (`/readyz`), and its metrics (`/metrics`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from query_service.http.access import requires
from query_service.http.error_replies import error_body
from query_service.http.service import HttpService
from storage.errors import VisualSearchError
from workers.servers import redis_errors_translated

OK = "ok"
_LOOK_SECONDS = 3.0  # a part that does not answer within this is missing
_KEEP_SECONDS = 0.5  # these addresses are open: however often somebody asks, the parts are asked twice a second at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Look:
    """What a part answered: "ok" or what is wrong in the words of the reply, and for the log the error behind it."""

    state: str
    error: Exception | None = None


class Readiness:
    """Asks the parts that a search or a job needs, all at once; who asks meanwhile gets the same answer."""

    def __init__(self, service: HttpService) -> None:
        self._parts: Mapping[str, Callable[[], Awaitable[bool]]] = {
            "catalog": lambda: asyncio.to_thread(lambda: service.catalog.collections.list() is not None),
            "redis": lambda: asyncio.to_thread(_answers, service.ping_redis),
            "query_worker": lambda: _any_worker(service),
        }
        self._looks: dict[str, asyncio.Task[_Look]] = {}
        self._logged: dict[str, str] = {}  # the state of each part that the log told last
        self._known: Mapping[str, str] = {}
        self._known_at = -_KEEP_SECONDS
        self._lock = asyncio.Lock()

    async def look(self) -> Mapping[str, str]:
        """For each part "ok" or what is wrong, in words without the service's inside."""
        async with self._lock:
            if monotonic() - self._known_at >= _KEEP_SECONDS:
                for name, ask in self._parts.items():
                    before = self._looks.get(name)
                    if before is None or before.done():  # one that hangs is not asked again before it is through
                        self._looks[name] = asyncio.create_task(_outcome(ask))
                await asyncio.wait(self._looks.values(), timeout=_LOOK_SECONDS)
                self._known = {name: self._taken(name) for name in self._parts}
                self._known_at = monotonic()
            return self._known

    def _taken(self, name: str) -> str:
        done = self._looks[name].done()
        look = self._looks.pop(name).result() if done else _Look("does not answer")
        if look.state != self._logged.get(name, OK):
            self._logged[name] = look.state
            _log_change(name, look)
        return look.state


def health_router(service: HttpService) -> APIRouter:
    """Open, but for the metrics of a service with keys: they need `admin`."""
    router = APIRouter(tags=["service"])
    readiness = Readiness(service)

    @router.get("/healthz", summary="Whether the process lives")
    async def healthz() -> dict[str, bool]:
        return {"alive": True}

    @router.get("/readyz", summary="Whether catalog, Redis and a query worker answer; 503 names what is missing")
    async def readyz() -> JSONResponse:
        parts = await readiness.look()
        missing = [name for name, state in parts.items() if state != OK]
        if not missing:
            return JSONResponse({"ready": True, "parts": parts})
        error = error_body("not_ready", f"missing: {', '.join(missing)}", retryable=True)
        return JSONResponse({"ready": False, "parts": parts, **error}, 503, {"Retry-After": "1"})

    @router.get(
        "/metrics",
        dependencies=[requires("admin")],
        summary="Metrics of this process for Prometheus",
        response_class=Response,  # of no type of its own: JSON would be described beside the text
        responses={200: {"content": {CONTENT_TYPE_LATEST: {}}, "description": "Prometheus's text format."}},
    )
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def _answers(ping_redis: Callable[[], Any]) -> bool:
    with redis_errors_translated():
        return bool(ping_redis())


async def _any_worker(service: HttpService) -> bool:
    return await service.searches.workers() > 0


async def _outcome(ask: Callable[[], Awaitable[bool]]) -> _Look:
    try:
        return _Look(OK if await ask() else "gave no sign")
    except VisualSearchError as error:
        return _Look(error.reason, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the part cannot be used; the log gets all of it
        return _Look("failed", error)


def _log_change(name: str, look: _Look) -> None:
    if look.state == OK:
        _log.info("readiness: %s is there again", name)
    elif look.error is None:
        _log.warning("readiness: %s %s", name, look.state)
    else:
        trace = None if isinstance(look.error, VisualSearchError) else look.error
        _log.error("readiness: %s: %s: %s", name, type(look.error).__name__, look.error, exc_info=trace)
