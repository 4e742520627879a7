"""One parsing process, seen from outside: starts it, asks it, says what its death means, ends it. Owns the
process and its pipes; must not decide when to replace it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Self

import msgspec

from embedmill.errors import ConfigurationError
from embedmill.ingest.parsing_protocol import LENGTH, MIB, ParseFailure, ParseUnavailable, Reply

_STREAM_LIMIT = 8 * MIB
_STDERR_TAIL_BYTES = 4096
_MAX_REPLY_BYTES = 4096 * MIB
_GOODBYE_SECONDS = 2.0
_OUT_OF_MEMORY = (
    b"memory allocation",
    b"MemoryError",
    b"ut of memory",
    b"bad_alloc",
    b"annot allocate memory",
)

_decoder = msgspec.msgpack.Decoder(Reply)

# Reading is the hardest work of this machine, and nobody waits for it as for an answer.
_NICENESS = 5


class ParsingProcess:
    """One parsing process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._tail = bytearray()
        self._listening = asyncio.create_task(self._listen(process.stderr))
        self.pid = process.pid
        self.documents = 0
        self._killed = False
        self._talks_nonsense = False
        self._receiving = False

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Self:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(environment),
                limit=_STREAM_LIMIT,
                # Ctrl-C goes to the whole group of a terminal: what is being read is to be finished or killed
                # by us, not by the key.
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(f"The parsing process cannot be started: {error}.") from error
        with contextlib.suppress(ProcessLookupError):  # it is dead already, as whoever waits for it will find
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        return cls(process)

    async def ask(self, body: bytes) -> Reply:
        """The reply, or what the death of the process says about the document."""
        self.documents += 1
        try:
            self._stdin.write(LENGTH.pack(len(body)))
            self._stdin.write(body)
            await self._stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return await self._cause_of_death()
        reply = await self.receive()
        return await self._cause_of_death() if reply is None else reply

    async def receive(self) -> Reply | None:
        """The next reply, or None where the process ended or talks nonsense."""
        self._receiving = True
        try:
            (length,) = LENGTH.unpack(await self._stdout.readexactly(LENGTH.size))
            if length > _MAX_REPLY_BYTES:
                self._talks_nonsense = True
                return None
            reply: Reply = _decoder.decode(await self._stdout.readexactly(length))
        except msgspec.DecodeError:
            self._talks_nonsense = True
            return None
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return None
        else:
            return reply
        finally:
            self._receiving = False

    async def _cause_of_death(self) -> Reply:
        code = await self._exit_code()
        if self._killed:
            return ParseUnavailable("The parser pool was closed while this document was read.")
        if code == -signal.SIGXCPU:
            return ParseFailure(
                "timeout", "Reading this document took more processor time than allowed.", True
            )
        if code == -signal.SIGKILL or any(words in self._tail for words in _OUT_OF_MEMORY):
            out_of_memory = True  # nobody but the system kills unasked: it had no memory left
        else:
            # Whoever aborts over damage says so; an allocator that is refused memory can say nothing.
            out_of_memory = code == -signal.SIGABRT and not self._tail
        if out_of_memory:
            return ParseFailure("memory", "Reading this document takes more memory than it is allowed.", True)
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ParseFailure(
            "corrupt", f"The parser crashed on this document ({how}); it may be damaged.", True
        )

    async def _exit_code(self) -> int:
        code = None
        if not self._talks_nonsense:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    code = await self._process.wait()
        if code is None:
            # It talked nonsense, or closed its pipe but lives.
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            code = 1
        await asyncio.wait([self._listening], timeout=_GOODBYE_SECONDS)
        return code

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for its reply."""
        return self._receiving

    async def last_words(self) -> str:
        """The last line that the process, which has ended, wrote to its stderr."""
        await asyncio.wait([self._listening], timeout=_GOODBYE_SECONDS)
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def kill(self) -> None:
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Close its stdin, which tells it to go; kill it when it stays; leave nothing open."""
        self._stdin.close()
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        # A pipe with unread bytes would keep its transport open.
        while not self._receiving and await self._stdout.read(_STREAM_LIMIT):
            pass
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._stdin.wait_closed()
        await asyncio.wait([self._listening], timeout=_GOODBYE_SECONDS)
        self._listening.cancel()

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while heard := await stderr.read(_STDERR_TAIL_BYTES):
            self._tail += heard
            del self._tail[:-_STDERR_TAIL_BYTES]
