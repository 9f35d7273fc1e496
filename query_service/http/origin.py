"""Which pages in a browser may talk to the API: its own alone. Guards against DNS rebinding and cross-site requests.

Programs send neither Origin nor Sec-Fetch-Site; only browsers do, and no page can forge them.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from query_service.http.error_replies import refusal

_DEFAULT_PORTS = {"http": 80, "https": 443}


class OriginCheck:
    """ASGI middleware: 403 for requests of foreign pages and, if `loopback_only`, for names other than loopback's.

    Without keys a page of an attacker whose name now leads to 127.0.0.1 would otherwise be the API's own page. With
    keys any name will do: a reverse proxy has its own, and such a page has no key.
    """

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if self._loopback_only and not is_loopback(host_name(headers.get("host", ""))):
                message = "without API keys this service answers to localhost, 127.0.0.1 and [::1] alone"
                await refusal(403, message, "host_refused")(scope, receive, send)
                return
            if is_foreign(headers):
                message = "requests from pages of other sites are refused"
                await refusal(403, message, "origin_refused")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_foreign(headers: Headers) -> bool:
    """Whether a page of another site sent this. Following a link to here is no request of that page."""
    origin = headers.get("origin")
    if origin is not None:
        return not _is_same(origin, headers.get("host", ""))
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"


def host_name(host: str) -> str:
    """The name in a Host header, without the port; "" when it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Whether this name or address means this machine alone."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_same(origin: str, host: str) -> bool:
    """Name and port alone: behind a proxy that speaks TLS the scheme is another one."""
    try:
        page, here = urlsplit(origin), urlsplit(f"//{host}")
        default = _DEFAULT_PORTS.get(page.scheme)
        same_port = (page.port or default) == (here.port or default)
    except ValueError:
        return False
    return default is not None and page.hostname == here.hostname and same_port
