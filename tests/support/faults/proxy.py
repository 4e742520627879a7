"""The way from one worker to the database, over TCP, through this process: it can be cut, frozen (open, and
silent) or made to lose the answer to a COMMIT. Owns the bytes' way; knows of the protocol only where a COMMIT and
its answer stand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_COPY = b"vectors_"
_COMMIT = b"COMMIT\x00"
_LINGER_AT_ONCE = struct.pack("ii", 1, 0)  # close() sends a reset


class Proxies:
    """All proxies of a test, on an event loop in a thread of its own: tests block where they like."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._all: list[Proxy] = []

    def open(self, socket_path: str) -> Proxy:
        """A new way to the server that listens at this Unix socket."""
        proxy = Proxy(self, socket_path)
        self.do(proxy.listen())
        self._all.append(proxy)
        return proxy

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        for proxy in self._all:
            proxy.close()
        self.do(_end_all_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Proxy:
    """One listening port on 127.0.0.1. Its methods may be called from any thread."""

    def __init__(self, proxies: Proxies, socket_path: str) -> None:
        self._proxies = proxies
        self._socket_path = socket_path
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.commits_to_lose = 0
        self.commit_lost = threading.Event()
        self.port = 0

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset every connection. What the server was told, it does."""
        self._do(self._cut)

    def freeze(self) -> None:
        """Forward nothing, in either direction; new connections open and stay silent."""
        self._do(self._flows.clear)

    def thaw(self) -> None:
        """Forward again, what was held back first."""
        self._do(self._flows.set)

    def lose_commit(self) -> None:
        """Of the next transaction that wrote vectors, the COMMIT is done and its answer lost, with the
        connection; `commit_lost` is set then."""
        self.commit_lost.clear()
        self._do(lambda: setattr(self, "commits_to_lose", 1))

    def keep_commits(self) -> bool:
        """Lose none from now on; whether one is being lost at this moment."""
        was_taken = not self.commits_to_lose
        self._do(lambda: setattr(self, "commits_to_lose", 0))
        return was_taken and not self.commit_lost.is_set()

    def backends(self) -> list[int]:
        """The server's process ids of the sessions that go this way now."""
        return [link.backend for link in list(self._links) if link.backend]

    def close(self) -> None:
        self._do(self._close)

    def _do(self, what: Callable[[], None]) -> None:
        async def done() -> None:
            what()

        self._proxies.do(done())

    def _cut(self) -> None:
        for link in list(self._links):
            link.reset()

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._cut()

    async def wait_until_it_flows(self) -> None:
        await self._flows.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        try:
            back = await asyncio.open_unix_connection(self._socket_path)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), back)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One connection: the client's end, the server's end, and both directions between them."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._wrote_vectors = False
        self._loses_answer = False
        self.backend = 0

    async def run(self) -> None:
        directions = [
            asyncio.ensure_future(self._pump(self._client[0], self._server[1], self._note_request)),
            asyncio.ensure_future(self._pump(self._server[0], self._client[1], self._note_answer)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            for _, writer in (self._client, self._server):
                writer.close()

    def reset(self) -> None:
        raw = self._client[1].get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_AT_ONCE)
        self._client[1].transport.abort()
        self._server[1].transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                await self._proxy.wait_until_it_flows()
                if not note(piece):
                    return
                writer.write(piece)
                await writer.drain()

    def _note_request(self, piece: bytes) -> bool:
        self._wrote_vectors = self._wrote_vectors or (b"COPY" in piece and _COPY in piece)
        if _COMMIT in piece:
            if self._wrote_vectors and self._proxy.commits_to_lose:
                self._proxy.commits_to_lose -= 1
                self._loses_answer = True
            self._wrote_vectors = False
        return True

    def _note_answer(self, piece: bytes) -> bool:
        self.backend = self.backend or _backend_of(piece)
        if self._loses_answer and _COMMIT in piece:
            self.reset()
            self._proxy.commit_lost.set()
            return False
        return True


def _backend_of(piece: bytes) -> int:
    """The process id that the server tells at the start of a session (BackendKeyData), 0 where it is not in here."""
    place = 0
    while place + 9 <= len(piece):
        kind, length = piece[place : place + 1], int.from_bytes(piece[place + 1 : place + 5])
        if kind == b"K":
            return int.from_bytes(piece[place + 5 : place + 9])
        place += 1 + length
    return 0


async def _end_all_tasks() -> None:
    me = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not me]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
