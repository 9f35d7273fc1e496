"""What stands before a real server and, from one of its answers on, sends a line that never ends, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

_DRIP_SECONDS = 0.01


@contextmanager
def dripping(port: int, answers: int) -> Iterator[str]:
    """The URL where the Redis of this port is heard until so many answers came; each new one drips for ever."""
    loop = asyncio.new_event_loop()
    left = [answers]

    async def connected(asking: asyncio.StreamReader, told: asyncio.StreamWriter) -> None:
        answering, server = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(_passed_on(asking, server), _answered(answering, told, left))
        except OSError:  # whoever asked has had enough
            pass
        finally:
            server.close()
            told.close()

    listening = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1"))
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        asyncio.run_coroutine_threadsafe(_ended(listening), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _passed_on(asking: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
    while data := await asking.read(65536):
        server.write(data)
    raise ConnectionResetError


async def _answered(answering: asyncio.StreamReader, told: asyncio.StreamWriter, left: list[int]) -> None:
    while data := await answering.read(65536):
        left[0] -= 1
        told.write(data if left[0] >= 0 else b"+")
        while left[0] < 0:
            await told.drain()
            await asyncio.sleep(_DRIP_SECONDS)
            told.write(b"x")
    raise ConnectionResetError


async def _ended(listening: asyncio.Server) -> None:
    listening.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
