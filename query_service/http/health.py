"""Whether the process lives (`/healthz`), whether it can serve (`/readyz`), and its metrics (`/metrics`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from query_service.http.access import requires
from query_service.http.error_replies import error_body
from query_service.http.service import HttpService
from storage.errors import VisualSearchError

OK = "ok"
_LOOK_SECONDS = 3.0  # a part that does not answer within this is missing
_KEEP_SECONDS = 0.5  # these addresses are open: however often somebody asks, the parts are asked twice a second at most


class Readiness:
    """Asks the parts that a search or a job needs, all at once; who asks meanwhile gets the same answer."""

    def __init__(self, service: HttpService) -> None:
        self._parts: Mapping[str, Callable[[], Awaitable[bool]]] = {
            "catalog": lambda: _in_a_thread(lambda: service.catalog.collections.list() is not None),
            "redis": lambda: _in_a_thread(service.ping_redis),
            "query_worker": lambda: _any_worker(service),
        }
        self._looks: dict[str, asyncio.Task[str]] = {}
        self._known: Mapping[str, str] = {}
        self._known_at = -_KEEP_SECONDS
        self._lock = asyncio.Lock()

    async def look(self) -> Mapping[str, str]:
        """For each part "ok" or what is wrong, in words without the service's inside."""
        async with self._lock:
            if monotonic() - self._known_at >= _KEEP_SECONDS:
                for name, ask in self._parts.items():
                    if name not in self._looks:  # one that hangs is not asked again before it is through
                        self._looks[name] = asyncio.create_task(_outcome(ask))
                await asyncio.wait(self._looks.values(), timeout=_LOOK_SECONDS)
                self._known = {name: self._taken(name) for name in self._parts}
                self._known_at = monotonic()
            return self._known

    def _taken(self, name: str) -> str:
        look = self._looks[name]
        if not look.done():
            return "does not answer"
        del self._looks[name]
        return look.result()


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


async def _in_a_thread(ask: Callable[[], Any]) -> bool:
    return bool(await asyncio.to_thread(ask))


async def _any_worker(service: HttpService) -> bool:
    return await service.searches.workers() > 0


async def _outcome(ask: Callable[[], Awaitable[bool]]) -> str:
    try:
        return OK if await ask() else "gave no sign"
    except VisualSearchError as error:
        return error.reason
    except Exception as error:  # noqa: BLE001 - Redis's own errors, or anything: the part is not there
        return type(error).__name__
