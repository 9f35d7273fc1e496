"""How errors look in the HTTP API: one body for all, and one table of statuses. No reply shows the service's inside.

    {"error": {"reason": "unknown_collection", "message": "...", "retryable": false}}

Where the service itself failed the message says nothing of the inside; the reply then has an `id`, and the log a line
with that id.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import pipeline.errors as computing
import storage.errors as keeping
from query_service.errors import (
    AccessRefused,
    CollectionLoading,
    DeadlineExceeded,
    MalformedMessage,
    QueryServiceError,
    ScopeMissing,
    SearchCancelled,
    ServiceBusy,
)
from storage.errors import VisualSearchError

RETRY_SECONDS = 1  # after which who was told to may try again

# The nearest class above an error counts; what is not here is the service's failure: 503 if a retry can help, else 500.
_STATUS: Mapping[type[VisualSearchError], int] = {
    AccessRefused: 401,
    ScopeMissing: 403,
    keeping.StorageDenied: 403,
    keeping.SourceNotAllowed: 403,
    keeping.UnknownImageId: 404,
    keeping.UnknownCollection: 404,
    keeping.UnknownGeneration: 404,
    keeping.UnknownJob: 404,
    keeping.ImageNotFound: 404,
    keeping.DuplicateImageId: 409,
    keeping.GenerationClosed: 409,
    keeping.GenerationIncomplete: 409,
    keeping.ContentChanged: 409,
    keeping.ModelMismatch: 409,
    keeping.JobClosed: 409,
    computing.IdTaken: 409,
    computing.GateFailed: 409,
    computing.ReindexIncomplete: 409,
    SearchCancelled: 409,
    keeping.ImageTooLarge: 413,
    computing.TooManyBytes: 413,
    computing.TooManyPixels: 413,
    computing.UnsupportedFormat: 415,
    computing.DecodeError: 400,
    computing.InvalidQuery: 400,
    computing.TextNotSupported: 400,
    computing.SidecarError: 400,
    keeping.StorageError: 400,  # an address that is no folder or bucket; what it names besides has classes of its own
    keeping.UploadsUnusable: 500,
    keeping.ImageUnreachable: 500,
    keeping.StorageUnavailable: 503,
    keeping.HostUnavailable: 503,
    keeping.InvalidFilter: 400,
    keeping.InvalidImageId: 400,
    keeping.InvalidKey: 400,
    keeping.InvalidVector: 400,
    keeping.InvalidAttribute: 400,
    keeping.InvalidCollectionName: 400,
    MalformedMessage: 400,
    ServiceBusy: 429,
    DeadlineExceeded: 504,
    CollectionLoading: 503,
}
_REASONS = {  # of what the framework refuses by itself
    400: "invalid_request",
    404: "no_such_address",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    431: "header_too_large",
}

_log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """What went wrong. `retryable`: whether the same request may succeed later without any change."""

    reason: str
    message: str
    retryable: bool
    id: str | None = None
    fields: list[dict[str, str]] | None = None


class ErrorReply(BaseModel):
    """The body of every error; for the description of the API."""

    error: ErrorDetail


def status_of(error: VisualSearchError) -> int:
    """The HTTP status with which this error is told."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 503 if error.retryable else 500


def error_document(error: VisualSearchError) -> dict[str, Any]:
    """The body for an error of ours, also as one entry of a batch. What is our own failure is logged with its id."""
    if status_of(error) < 500 or isinstance(error, QueryServiceError):
        return error_body(error.reason, str(error), retryable=error.retryable)
    number = _logged(error, trace=None)  # it says itself what is wrong, and may come with every request
    return error_body(
        error.reason, "the service cannot do this now; its log says why", retryable=error.retryable, id=number
    )


def error_body(reason: str, message: str, *, retryable: bool = False, **more: Any) -> dict[str, Any]:
    """The one shape of all errors."""
    return {"error": {"reason": reason, "message": _sendable(message), "retryable": retryable, **more}}


def error_reply(error: VisualSearchError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The whole reply for an error of ours."""
    status = status_of(error)
    told = dict(headers or {})
    if status == 401:
        told.setdefault("WWW-Authenticate", "Bearer")
    elif status == 429 or (status == 503 and error.retryable):
        told.setdefault("Retry-After", str(RETRY_SECONDS))
    return JSONResponse(error_document(error), status, told)


def refusal(
    status: int,
    message: str,
    reason: str = "",
    headers: Mapping[str, str] | None = None,
    fields: Sequence[Mapping[str, str]] = (),
) -> JSONResponse:
    """The reply to a request that is wrong as HTTP, before anything of ours looked at it."""
    more: dict[str, Any] = {"fields": list(fields)} if fields else {}
    body = error_body(reason or _REASONS.get(status, "http_error"), message, **more)
    return JSONResponse(body, status, headers)


def add_error_replies(app: FastAPI) -> None:
    """From now on every error of this application has this shape."""

    @app.exception_handler(VisualSearchError)
    async def _ours(_: Request, error: VisualSearchError) -> JSONResponse:
        return error_reply(error)

    @app.exception_handler(HTTPException)
    async def _of_http(request: Request, error: HTTPException) -> JSONResponse:
        nothing_there = error.status_code == 404 and error.detail == "Not Found"  # what the framework itself says
        message = f"{request.method} {request.url.path} is not served here" if nothing_there else str(error.detail)
        return refusal(error.status_code, message, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def _wrong_fields(_: Request, error: RequestValidationError) -> JSONResponse:
        fields = [{"field": _name(one["loc"]), "message": _sendable(str(one["msg"]))} for one in error.errors()]
        summary = "; ".join(f"{one['field']}: {one['message']}" for one in fields[:5])
        return refusal(422, summary, fields=fields[:50])


class UnexpectedErrors:
    """ASGI middleware, the innermost: what nobody expected is logged here once, and told as `internal` with an id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:  # nobody is there to be told anything
            _log.debug("%s left before its request was read", scope.get("client"))
        except Exception as error:
            if begun or scope["type"] != "http":
                raise  # the server breaks the connection off, so that half a reply does not look whole
            body = error_body("internal", "the service failed; its log says why", id=_logged(error, trace=error))
            await JSONResponse(body, 500)(scope, receive, send)


def _name(location: Sequence[Any]) -> str:
    """`body.query.0.text`: without the first part where that only says that it is the body."""
    parts = [str(part) for part in location]
    return _sendable(".".join(parts[1:] if len(parts) > 1 and parts[0] in ("body", "query", "path") else parts))


def _sendable(text: str) -> str:
    """The text as UTF-8 can carry it: JSON may hold half a surrogate pair, and a message quotes it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _logged(error: Exception, trace: Exception | None) -> str:
    """Write the error to the log, and return the id under which it is found there."""
    number = secrets.token_hex(6)
    _log.error("error %s: %s: %s", number, type(error).__name__, error, exc_info=trace, extra={"request": number})
    return number
