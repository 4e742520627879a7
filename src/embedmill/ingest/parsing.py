"""Reads documents in processes of their own, under limits of time and memory. Owns the life of those
processes: started when needed, killed at the deadline, replaced when they die or grow. Must not parse, and
must not import a parser: the command that starts one is an argument."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec
import psutil

from embedmill.errors import ConfigurationError, DocumentError
from embedmill.ingest.parsing_process import ParsingProcess
from embedmill.ingest.parsing_protocol import (
    MIB,
    ChildReady,
    CutReply,
    CutRequest,
    ParseFailure,
    ParseReply,
    ParseRequest,
    ParseUnavailable,
    Reply,
    Request,
)


class ParserPool:
    """Up to `size` parsing processes, each reading one document at a time.

    `async with ParserPool(command) as pool: reply = await pool.parse(request)`. No document can harm another:
    one that hangs, crashes or grows costs its own process, which is replaced. Leaving the block ends all
    processes; should this process be killed, they end with it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        size: int = 2,
        deadline_seconds: float = 120.0,
        start_seconds: float = 60.0,
        recycle_resident_bytes: int = 512 * MIB,
        recycle_documents: int = 2000,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` is all that a child sees besides its own tuning: by default no key and no password of
        this process is where a hostile document could read it."""
        self._command = tuple(command)
        self._deadline_seconds = deadline_seconds
        self._start_seconds = start_seconds
        self._recycle_resident_bytes = recycle_resident_bytes
        self._recycle_documents = recycle_documents
        self._environment = {
            "MALLOC_ARENA_MAX": "2",
            # numpy's linear algebra is never used; its pool of threads costs a tenth of a second at every start.
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONUTF8": "1",
            # It imports the same embedmill as we do, however ours was found.
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            **(environment or {}),
        }
        # The last used first: the others stay unstarted while one is enough.
        self._free: asyncio.LifoQueue[_Seat] = asyncio.LifoQueue()
        for _ in range(max(1, size)):
            self._free.put_nowait(_Seat())
        self._living: set[ParsingProcess] = set()
        self._farewells: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all processes."""
        self._closed = True
        for child in tuple(self._living):
            self._part_from(child, gently=not child.is_busy)
        while self._farewells:
            await asyncio.wait(tuple(self._farewells))

    async def parse(self, request: ParseRequest) -> ParseReply:
        """The document, with its chunks where the request has a plan.

        Waits for a free process; the deadline counts from there. Raises DocumentError with its reason (the
        document is to blame, everything else goes on) and ConfigurationError (a part is missing: every
        document of its kind would fail). Cancelling kills the process that reads this document.
        """
        reply = await self._ask(request)
        if isinstance(reply, ParseFailure):
            raise DocumentError(reply.reason, reply.message)
        if not isinstance(reply, ParseReply):
            raise DocumentError("corrupt", "The parsing process answered out of turn on this document.")
        return reply

    async def cut(self, request: CutRequest) -> list[ParseReply | ParseFailure]:
        """For each text, in order, its chunks, or why there are none. A text that hangs or crashes the process
        costs the others nothing: the request is halved until it is alone. Raises ConfigurationError as `parse`."""
        if not request.documents:
            return []
        reply = await self._ask(request)
        if isinstance(reply, CutReply) and len(reply.replies) == len(request.documents):
            return list(reply.replies)
        if len(request.documents) == 1:
            out_of_turn = ParseFailure("corrupt", "The parsing process answered out of turn on this text.")
            return [reply if isinstance(reply, ParseFailure) else out_of_turn]
        middle = len(request.documents) // 2
        halves = (request.documents[:middle], request.documents[middle:])
        return [
            each
            for half in halves
            for each in await self.cut(msgspec.structs.replace(request, documents=half))
        ]

    async def _ask(self, request: Request) -> Reply:
        body = msgspec.msgpack.encode(request)
        seat = await self._free.get()
        try:
            reply = await self._answer(seat, body)
        finally:
            self._free.put_nowait(seat)
        if isinstance(reply, ParseUnavailable):
            raise ConfigurationError(reply.message)
        return reply

    async def _answer(self, seat: _Seat, body: bytes) -> Reply:
        was_used = seat.child is not None and seat.child.documents > 0
        reply = await self._attempt(seat, body)
        if was_used and isinstance(reply, ParseFailure) and reply.spoilt and reply.reason == "corrupt":
            # Perhaps an earlier document left the process weak: no document pays for another.
            reply = await self._attempt(seat, body)
        return reply

    async def _attempt(self, seat: _Seat, body: bytes) -> Reply:
        child = seat.child or await self._start()
        seat.child = None  # until it has answered in full, nobody may use it again
        reply: Reply | None = None
        try:
            async with asyncio.timeout(self._deadline_seconds):
                reply = await child.ask(body)
        except TimeoutError:
            reply = ParseFailure(
                "timeout", f"Reading this document took longer than {self._deadline_seconds:g} seconds.", True
            )
        finally:
            if reply is None or (isinstance(reply, ParseFailure) and reply.spoilt):
                self._part_from(child, gently=False)
            elif child.documents >= self._recycle_documents or self._has_grown(child):
                self._part_from(child, gently=True)
            else:
                seat.child = child
        return reply

    async def _start(self) -> ParsingProcess:
        if self._closed:
            raise ConfigurationError("The parser pool is closed; it was left before all documents were read.")
        child = await ParsingProcess.start(self._command, self._environment)
        self._living.add(child)
        ready: Reply | None = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._start_seconds):
                    ready = await child.receive()
        finally:
            if not isinstance(ready, ChildReady):
                self._part_from(child, gently=False)
        if not isinstance(ready, ChildReady):
            raise ConfigurationError(
                f"The parsing process does not start ({await child.last_words() or 'it says nothing'}); "
                "check the installation with `embedmill doctor`."
            )
        return child

    def _has_grown(self, child: ParsingProcess) -> bool:
        try:
            resident = psutil.Process(child.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return True
        return bool(resident > self._recycle_resident_bytes)

    def _part_from(self, child: ParsingProcess, *, gently: bool) -> None:
        """End the child now (or let it end, `gently`); the task that sees it off is awaited on leaving."""
        if not gently:
            child.kill()
        if child not in self._living:
            return
        self._living.discard(child)
        farewell = asyncio.create_task(child.end())
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)


class _Seat:
    """A place for one process; empty until a document needs it."""

    def __init__(self) -> None:
        self.child: ParsingProcess | None = None
