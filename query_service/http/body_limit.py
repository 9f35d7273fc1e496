"""How much of a request body is taken, and how long it may take: nothing is read that will be refused.

A reply that is sent before its request was read to the end closes the connection, after a moment in which the rest is
thrown away: a client that is still sending would otherwise see a broken connection in place of the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from query_service.http.error_replies import refusal

SLOW_SECONDS = 30.0  # for which a body may stall
SLOWEST_BYTES_PER_SECOND = 4096  # a body that drips more slowly than this, beyond those seconds, is refused
LINGER_SECONDS = 3.0
_SMALL_BYTES = 64 * 1024
_SMALL_SECONDS = 0.02


class BodyLimit:
    """ASGI middleware: 413 above `most_bytes`, declared or sent; 408 for a body that does not get on."""

    def __init__(self, app: ASGIApp, most_bytes: int, slow_seconds: float = SLOW_SECONDS) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._slow_seconds = slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = int(headers.get("content-length", 0))  # the server lets digits through only
        complete = not length and "transfer-encoding" not in headers
        body = _Body(receive, send, (self._most_bytes, self._slow_seconds), complete=complete)
        body.is_small = length <= _SMALL_BYTES and "transfer-encoding" not in headers and "expect" not in headers
        if length > self._most_bytes:
            await refusal(413, _too_large(self._most_bytes))(scope, body.receive, body.send)
        else:
            await self._app(scope, body.receive, body.send)


class _Body:
    """One request's body as it comes in, and what that means for the reply."""

    def __init__(self, receive: Receive, send: Send, bounds: tuple[int, float], *, complete: bool) -> None:
        self._receive, self._send = receive, send
        self._most_bytes, self._slow_seconds = bounds
        self._complete = complete
        self.is_small = False  # so that it is here already, as a rule
        self._began = monotonic()
        self._bytes = 0

    async def receive(self) -> Message:
        """The next piece. Raises HTTPException: 413 once it is too much, 408 when it takes too long."""
        if self._complete:  # only waits for the client to leave, as streams do
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._seconds_left())
        except asyncio.TimeoutError as error:
            raise HTTPException(408, "the body of the request took too long") from error
        self._take(message)
        if self._bytes > self._most_bytes:
            raise HTTPException(413, _too_large(self._most_bytes))
        return message

    async def send(self, message: Message) -> None:
        """Pass the reply on; if the request is not read by then, say that the connection closes, and linger."""
        if message["type"] == "http.response.start" and not self._complete:
            if self.is_small:  # a refusal, or an address that needs no body: the connection can be kept
                await self._linger(_SMALL_SECONDS)
            if not self._complete:
                MutableHeaders(scope=message)["Connection"] = "close"
        elif message["type"] == "http.response.body" and not self._complete and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger(LINGER_SECONDS)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _seconds_left(self) -> float:
        return max(0.0, self._slow_seconds + self._bytes / SLOWEST_BYTES_PER_SECOND - (monotonic() - self._began))

    def _take(self, message: MutableMapping[str, object]) -> None:
        body = message.get("body", b"")
        self._bytes += len(body) if isinstance(body, bytes) else 0
        self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)

    async def _linger(self, seconds: float) -> None:
        """Throw away what still comes, within bounds."""
        end, most = monotonic() + seconds, self._bytes + self._most_bytes
        while not self._complete and self._bytes <= most and monotonic() < end:
            try:
                self._take(await asyncio.wait_for(self._receive(), max(0.0, end - monotonic())))
            except asyncio.TimeoutError:
                return


def _too_large(most_bytes: int) -> str:
    return f"the body of the request is larger than {most_bytes:,} bytes (max_upload_bytes)"
