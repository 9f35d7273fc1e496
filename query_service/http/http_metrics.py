"""The Prometheus metrics of the HTTP API. Labels have few values: methods, templates of routes, statuses."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUESTS = Counter("visual_search_http_requests", "Requests that were answered.", ["method", "route", "status"])
SECONDS = Histogram(
    "visual_search_http_seconds", "Seconds until a reply begins.", ["method", "route"], buckets=_SECONDS
)
UNDER_WAY = Gauge("visual_search_http_under_way", "Requests and streams under way.")


class Measure:
    """ASGI middleware: counts and times every request."""

    def __init__(self, app: ASGIApp, progress: Callable[[int], None]) -> None:
        self._app = app
        self._progress = progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = monotonic()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                method, route = _labels(scope)
                REQUESTS.labels(method, route, str(message["status"])).inc()
                SECONDS.labels(method, route).observe(monotonic() - began)
                self._progress(1)
            await send(message)

        with UNDER_WAY.track_inprogress():
            await self._app(scope, receive, counting)


def _labels(scope: Scope) -> tuple[str, str]:
    """Never the address itself: anybody can ask for any."""
    method = scope["method"] if scope["method"] in _METHODS else "other"
    return method, getattr(scope.get("route"), "path", "none")
