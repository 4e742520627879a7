"""Reads a stream of shards, one JSON object a line, and writes them in batches. Owns when a batch is full and what is
told of each line; memory is bounded whatever comes. Must not know where the stream comes from."""

from __future__ import annotations

import asyncio
import json
import os
import select
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from embedmill.database.patience import patiently
from embedmill.sources.shard_entries import ShardEntry, ShardError, read_entry
from embedmill.sources.shards import Shards

BATCH_LINES = 1_000
BATCH_BYTES = 8 * 1024 * 1024
LONGEST_LINE_BYTES = 64 * 1024 * 1024
# A line that has come is written after so long, however few came with it.
LINGER_SECONDS = 0.5
_PIECE_BYTES = 256 * 1024
_PIECES_AHEAD = 8


class StreamCounts(msgspec.Struct):
    """What became of the lines so far. `lines`: of which all that are written are told here; `rejected` are kept as
    dead letters or not at all, `bad` could not be understood."""

    lines: int = 0
    applied: int = 0
    ignored: int = 0
    rejected: int = 0
    bad: int = 0


class ShardStream:
    """Imports one stream, until its end or `stop()`."""

    def __init__(
        self,
        shards: Shards,
        *,
        shard_type_id: str | None = None,
        pipeline: str | None = None,
        most_bytes: int,
        on_trouble: Callable[[int, str], None],
        on_batch: Callable[[StreamCounts], None] = lambda counts: None,
    ) -> None:
        """`shard_type_id`: of lines that name none. `on_trouble` is told of a line, by its number from 1, that was not
        applied as it was meant."""
        self.counts = StreamCounts()
        self._shards = shards
        self._shard_type_id = shard_type_id
        self._pipeline = pipeline
        self._most_bytes = most_bytes
        self._on_trouble = on_trouble
        self._on_batch = on_batch
        self._stopping = asyncio.Event()
        self._entries: list[tuple[int, ShardEntry]] = []
        self._bytes = 0
        self._line = 0
        self._due: float | None = None

    def stop(self) -> None:
        """What was read so far is written, and no more is read."""
        self._stopping.set()

    async def run(self, file: int) -> StreamCounts:
        """Read a file descriptor to its end. Raises DatabaseError where the database stays away."""
        pieces = _Pieces(file)
        lines = _Lines()
        pieces.start()
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                piece = await self._next(pieces, stopped)
                if piece is None:
                    await self._write()
                    continue
                for line in lines.feed(piece):
                    await self._take(line)
                if not piece:
                    break
            await self._write()
        finally:
            stopped.cancel()
            pieces.give_up()
        return self.counts

    async def _next(self, pieces: _Pieces, stopped: asyncio.Task[Any]) -> bytes | None:
        """The next piece; None where a batch is due before it comes, or nothing more is to be read."""
        coming = asyncio.ensure_future(pieces.next())
        timeout = None
        if self._due is not None:
            timeout = max(0.0, self._due - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait({coming, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if coming in done:
            return coming.result()
        coming.cancel()
        return None

    async def _take(self, line: bytes | None) -> None:
        self._line += 1
        if line is not None and not line.strip():
            self.counts.lines = self._line
            return
        try:
            entry = self._entry(line)
        except ShardError as error:
            self.counts.bad += 1
            self._on_trouble(self._line, str(error))
            return
        if not self._entries:
            self._due = asyncio.get_running_loop().time() + LINGER_SECONDS
        self._entries.append((self._line, entry))
        self._bytes += len(line or b"")
        if len(self._entries) >= BATCH_LINES or self._bytes >= BATCH_BYTES:
            await self._write()

    def _entry(self, line: bytes | None) -> ShardEntry:
        if line is None:
            raise ShardError(f"it is longer than {LONGEST_LINE_BYTES:,} bytes")
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = "too deep" if isinstance(error, RecursionError) else str(error)
            raise ShardError(f"no JSON: {reason}") from error
        if isinstance(said, dict) and self._shard_type_id is not None:
            said = {"shardTypeId": self._shard_type_id, **said}
        return read_entry(said, most_bytes=self._most_bytes)

    async def _write(self) -> None:
        taken, self._entries, self._bytes, self._due = self._entries, [], 0, None
        if taken:
            entries = [entry for _, entry in taken]
            # To write the same versions again does no harm.
            outcomes = await patiently(lambda: self._shards.put(entries, pipeline=self._pipeline))
            for (number, _), outcome in zip(taken, outcomes, strict=True):
                setattr(self.counts, outcome.status, getattr(self.counts, outcome.status) + 1)
                if outcome.status == "rejected":
                    self._on_trouble(number, outcome.message or outcome.reason or "rejected")
        self.counts.lines = self._line
        self._on_batch(self.counts)


class _Lines:
    """Cuts pieces into lines; one that is too long is None."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._length = 0
        self._is_too_long = False

    def feed(self, piece: bytes) -> list[bytes | None]:
        """The lines that end in a piece; b"" ends the last one."""
        if not piece:
            return [self._end(b"")] if self._length or self._is_too_long else []
        *ended, rest = piece.split(b"\n")
        lines = [self._end(each) for each in ended]
        self._length += len(rest)
        if self._length > LONGEST_LINE_BYTES:
            self._is_too_long = True
            self._rest.clear()
        elif rest:
            self._rest.append(rest)
        return lines

    def _end(self, last: bytes) -> bytes | None:
        is_too_long = self._is_too_long or self._length + len(last) > LONGEST_LINE_BYTES
        line = None if is_too_long else b"".join((*self._rest, last))
        self._rest.clear()
        self._length, self._is_too_long = 0, False
        return line


class _Pieces:
    """What a thread reads, a bounded number of pieces ahead. The thread is not waited for: it may hang in a read for
    ever, and the process must end all the same. So nothing of Python's stands between it and the file: the lock of a
    BufferedReader, held by a read that hangs, aborts an interpreter that wants to end."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._read: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._room = threading.Semaphore(_PIECES_AHEAD)
        self._is_over = False

    def start(self) -> None:
        threading.Thread(target=self._pump, name="shard stream", daemon=True).start()

    async def next(self) -> bytes:
        """b"" at the end. Raises OSError as the file does."""
        piece = await self._read.get()
        self._room.release()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def give_up(self) -> None:
        self._is_over = True
        self._room.release()

    def _read_some(self) -> bytes:
        """What there is, waited for: whoever gave us the file may have made it one that does not wait."""
        while True:
            try:
                return os.read(self._file, _PIECE_BYTES)
            except BlockingIOError:
                select.select([self._file], [], [])

    def _pump(self) -> None:
        while True:
            self._room.acquire()
            if self._is_over:
                return
            piece: bytes | Exception
            try:
                piece = self._read_some()
            except OSError as error:
                piece = error
            try:
                self._loop.call_soon_threadsafe(self._read.put_nowait, piece)
            except RuntimeError:
                return  # the loop has ended before us
            if not piece or isinstance(piece, Exception):
                return
