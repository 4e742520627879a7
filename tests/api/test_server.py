"""The service's socket."""

from __future__ import annotations

import asyncio
import socket

from embedmill.api.server import listen
from embedmill.service import ServiceApp
from tests.support.serving import Serving


async def test_answers_leave_without_waiting_for_an_acknowledgement(idle_service: Serving) -> None:
    """Else each of two writes waits 40 ms: asyncio sets TCP_NODELAY only on what says that it is TCP."""
    service: ServiceApp = idle_service.service
    listener = await listen(service, "127.0.0.1", 0)
    seen = asyncio.get_running_loop().create_future()

    def made(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        seen.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    bound = listener.socket
    server = await asyncio.start_server(made, sock=bound)
    async with server:
        _, writer = await asyncio.open_connection(*bound.getsockname()[:2])
        assert await seen == 1
        writer.close()
