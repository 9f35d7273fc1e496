"""Ends what is done for a client that has left. Knows no search."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

Result = TypeVar("Result")


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What the work gives; it is cancelled, and ClientDisconnect raised, when the client leaves before.

    For requests whose body is read: nothing but the leave can come from them then.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})  # it says goodbye to the worker


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
