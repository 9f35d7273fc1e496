"""Who asks, by API key, and what that allows. Knows no route: each names the scope that it needs.

A key is looked up, and the caller's requests are counted, before the body is read. What is compared are SHA-256 sums,
all of them and in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Depends, Request, params
from fastapi.openapi.models import HTTPBearer
from fastapi.responses import JSONResponse
from fastapi.security.base import SecurityBase
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from query_service.errors import AccessRefused, ScopeMissing, ServiceBusy
from query_service.http.error_replies import error_reply
from query_service.http.rate_limit import RateLimit
from storage.settings import ApiKey

KeyScope = Literal["search", "submit", "admin"]

GUARDED = "/v1/"  # below it everything needs a key, whether or not there is such a route


@dataclass(frozen=True)
class Caller:
    """Who asks: the name of a key, or "" without keys; and what is allowed."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: KeyScope) -> bool:
        """Whether this scope is held; `admin` includes the others."""
        return scope in self.scopes or "admin" in self.scopes


_HOW = "send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
_PICTURES = ("/thumbnail", "/original")  # one page of results asks for dozens
_PICTURE_COST = 0.1  # of a request
_ANYBODY = Caller("", frozenset({"admin"}))  # keyless: who reaches loopback may do everything


class Admission:
    """ASGI middleware: notes the caller in the request's state; below /v1/ no right key is 401, too many requests 429.

    Requests are counted for each key; those without a right one, and all of a service without keys, for each address.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey], limit: RateLimit) -> None:
        self._app = app
        self._keys = tuple(keys)
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = given_key(Headers(scope=scope))
            caller = _ANYBODY if not self._keys else caller_of(given, self._keys)
            scope.setdefault("state", {})["caller"] = caller
            refused = self._refusal(scope, caller, given) if scope["path"].startswith(GUARDED) else None
            if refused is not None:
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, caller: Caller | None, given: str) -> JSONResponse | None:
        counted = f"key {caller.name}" if caller and caller.name else f"address {_address(scope)}"
        seconds = self._limit.wait_seconds(counted, _cost(scope["path"]))
        if seconds:
            busy = ServiceBusy(f"too many requests (requests_per_minute): try again in {seconds} s")
            return error_reply(busy, {"Retry-After": str(seconds)})
        if caller is None:
            what = "this API key is not known" if given else "an API key is needed"
            return error_reply(AccessRefused(f"{what}: {_HOW}"))
        return None


def _cost(path: str) -> float:
    return _PICTURE_COST if path.endswith(_PICTURES) else 1.0


def _address(scope: Scope) -> str:
    """Of an IPv6 address the network: its owner has all the others in it too."""
    host = scope["client"][0] if scope.get("client") else ""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network(f"{host.partition('%')[0]}/64", strict=False))
    except ValueError:
        return host


def given_key(headers: Headers) -> str:
    """The key that a request carries, "" if none: the Authorization header stands above X-API-Key."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return headers.get("x-api-key", "").strip()


def caller_of(key: str, keys: Sequence[ApiKey]) -> Caller | None:
    """Whose key it is. Every entry is compared, so that the time tells neither whether nor which one fits."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for entry in keys:
        if hmac.compare_digest(digest, entry.sha256):
            found = entry
    return Caller(found.name, frozenset(found.scopes)) if found is not None else None


def requires(scope: KeyScope) -> Any:
    """For `APIRouter(dependencies=[requires("search")])` or one route: the caller must hold this scope."""
    needed: params.Depends = Depends(Required(scope))
    return needed


class Required(SecurityBase):
    """The check of one scope; the API's description shows it as the security of each address that has it."""

    def __init__(self, scope: KeyScope) -> None:
        self.scope = scope
        self.scheme_name = f"{scope}_key"
        self.model = HTTPBearer(
            description=f"An API key with the scope `{scope}` or `admin`. `X-API-Key: KEY` does too."
        )

    def __call__(self, request: Request) -> None:
        """Raise AccessRefused without a key, ScopeMissing with one that may not do this."""
        caller: Caller | None = request.state.caller
        if caller is None:
            raise AccessRefused(f"an API key is needed: {_HOW}")
        if not caller.may(self.scope):
            raise ScopeMissing(f"the key '{caller.name}' lacks the scope '{self.scope}'")
