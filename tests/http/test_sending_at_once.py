"""Small packets are sent at once: an answer in two of them must not wait for a delayed acknowledgement."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

from query_service.http.listening import listen
from storage.settings import Settings


def test_accepted_connections_do_not_hold_back_small_packets(tmp_path: Path) -> None:
    """Else each answer on a kept connection comes 40 ms late."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(one) for one in listen(Settings(data_dir=tmp_path, http_port=0))]
        assert asyncio.run(_no_delay(sockets[0])) == 1


async def _no_delay(listening: socket.socket) -> int:
    """TCP_NODELAY of a connection, as asyncio, and so uvicorn, accepts it."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = writer.get_extra_info("socket")
        accepted.set_result(int(theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(connected, sock=listening)
    host, port = listening.getsockname()[:2]
    async with server:
        _, writer = await asyncio.open_connection(host, port)
        try:
            return await accepted
        finally:
            writer.close()
            await writer.wait_closed()
