"""The way from a client to a service, over TCP, through this process: answers can be lost, requests cut in the middle,
streams held back. Owns the bytes' way; must not assert."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_RESET = struct.pack("ii", 1, 0)  # close() sends a reset


class Cutting:
    """`answers_to_lose`: of so many answers nothing arrives, though the service gave them. `cut_requests_after`: the
    next request is cut when so many bytes of its connection have gone. `holds_streams`: of a stream nothing arrives,
    and it stays open, as behind a proxy that waits for its end; `drops_streams`: each is cut at its first byte."""

    def __init__(self, address: str) -> None:
        self._service = urlsplit(address)
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = ""
        self.answers_to_lose = 0
        self.cut_requests_after: int | None = None
        self.holds_streams = False
        self.drops_streams = False
        self.is_away = False
        self.connections = 0
        self.cuts = 0
        self.streams = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.is_away:
            _reset(writer)
            return
        back_reader, back_writer = await asyncio.open_connection(self._service.hostname, self._service.port)
        self._writers |= {writer, back_writer}
        tasks = [
            asyncio.ensure_future(self._requests(reader, back_writer, writer)),
            asyncio.ensure_future(self._answers(back_reader, writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for one in (writer, back_writer):
                one.close()
            self._writers -= {writer, back_writer}

    @property
    def open_connections(self) -> int:
        return len(self._writers) // 2

    def cut_all(self) -> None:
        """Reset every connection that is open."""
        for writer in list(self._writers):
            _reset(writer)

    async def _requests(
        self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while piece := await reader.read(16384):
                self.streams += piece.startswith(b"GET") and b"/events HTTP" in piece
                sent += len(piece)
                if self.cut_requests_after is not None and sent > self.cut_requests_after:
                    self.cut_requests_after = None
                    self.cuts += 1
                    _reset(writer)
                    return
                back.write(piece)
                await back.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(16384):
                if self.holds_streams and b"text/event-stream" in piece:
                    await asyncio.Event().wait()
                if self.drops_streams and b"text/event-stream" in piece:
                    _reset(writer)
                    return
                if self.answers_to_lose and piece.startswith(b"HTTP/"):
                    self.answers_to_lose -= 1
                    self.cuts += 1
                    _reset(writer)
                    return
                writer.write(piece)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def cutting(address: str) -> AsyncIterator[Cutting]:
    one = Cutting(address)
    server = await asyncio.start_server(one.accept, "127.0.0.1", 0)
    one.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
        one.cut_all()
