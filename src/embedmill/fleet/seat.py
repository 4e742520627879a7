"""One seat of the fleet: a worker process that is kept running. Owns its start, its restarts with a growing delay,
and its end; must not decide how many seats there are.

Each process has a session of its own: a Ctrl-C of the terminal reaches the supervisor alone, which passes it on as
one SIGTERM. Its standard input is a pipe whose other end is ours: when we die, it ends (lifeline.py). After a process
that was drained the seat stays empty, until somebody asks for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from embedmill.fleet.events import (
    FleetEvent,
    WorkerDied,
    WorkerDrained,
    WorkerKilled,
    WorkerNotStarted,
)
from embedmill.fleet.lifeline import DRAINED_STATUS


class SeatOptions(msgspec.Struct, frozen=True):
    """`settled_seconds`: a process that lived so long was well, its death is the first of a new series."""

    stop_seconds: float = 120.0
    settled_seconds: float = 60.0
    first_delay_seconds: float = 1.0
    longest_delay_seconds: float = 60.0
    ends_by_itself: bool = False


async def _for_ever(pid: int) -> None:
    """Nobody can ask."""
    del pid
    await asyncio.Event().wait()


class Seat:
    """Keeps one process running until it is told to stop, or the process has nothing more to do."""

    def __init__(
        self,
        command: Sequence[str],
        options: SeatOptions,
        *,
        on_event: Callable[[FleetEvent], None],
        chance: random.Random,
        until_asked: Callable[[int], Awaitable[None]] = _for_ever,
    ) -> None:
        """`until_asked` returns when the place of the process of that number, which was drained, may be filled."""
        self._until_asked = until_asked
        self._command = tuple(command)
        self._options = options
        self._on_event = on_event
        self._chance = chance
        self._leaving = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0
        self._is_killed = False
        self._drained_pid = 0
        self.failures = 0
        """Deaths in a row, none of which came after a while of work."""
        self.last_failure = ""
        self.is_finished = False
        """The process ended by itself, in order: nothing is left to do."""
        self.was_killed = False
        self.is_kept_empty = False
        """Its process was drained, and nobody has asked for another yet."""

    @property
    def pid(self) -> int | None:
        """The number of the process; None where none runs at this moment."""
        return None if self._process is None else self._process.pid

    @property
    def is_failing(self) -> bool:
        """Whether more processes like this one would most likely die as well."""
        if self._process is None:
            return self.failures > 0
        return self.failures > 1 and time.monotonic() - self._started_at < self._options.settled_seconds

    def stop(self) -> None:
        """Ask the process to end in order. A second time changes nothing."""
        self._leaving.set()

    def kill(self) -> None:
        """End the process at once."""
        self._leaving.set()
        self._is_killed = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def run(self) -> None:
        """Until `stop()` and the end of the process, or until it has nothing more to do."""
        while not self._leaving.is_set():
            delay = await self._live_once()
            if self.is_finished:
                return
            if self.is_kept_empty:
                await self._stay_empty()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), delay)

    async def _live_once(self) -> float:
        """One process from its start to its end; the seconds until the next one."""
        self._started_at = time.monotonic()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            delay = self._note_failure(0.0, str(error))
            self._on_event(WorkerNotStarted(str(error), delay))
            return delay
        try:
            await self._wait_for_end(process)
        finally:
            self._process = None
        code, lived = process.returncode or 0, time.monotonic() - self._started_at
        self.is_finished = code == 0 and self._options.ends_by_itself
        if self._leaving.is_set() or self.is_finished:
            return 0.0
        if code == DRAINED_STATUS:
            self.failures, self.is_kept_empty, self._drained_pid = 0, True, process.pid
            self._on_event(WorkerDrained(process.pid))
            return 0.0
        delay = self._note_failure(lived, describe_end(code))
        self._on_event(WorkerDied(process.pid, self.last_failure, lived, delay))
        return delay

    async def _stay_empty(self) -> None:
        """Until another process is asked for, or we leave."""
        asked = asyncio.ensure_future(self._until_asked(self._drained_pid))
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait((asked, leaving), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
            self.is_kept_empty = False
        finally:
            asked.cancel()
            leaving.cancel()

    async def _wait_for_end(self, process: asyncio.subprocess.Process) -> None:
        """Return when the process has ended, by itself or because we leave."""
        ended, leaving = asyncio.create_task(process.wait()), asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait((ended, leaving), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL if self._is_killed else signal.SIGTERM)
            await asyncio.wait((ended,), timeout=self._options.stop_seconds)
            if not ended.done():
                self.was_killed = True
                self._on_event(WorkerKilled(process.pid, self._options.stop_seconds))
                process.kill()
                await ended
        finally:
            leaving.cancel()
            ended.cancel()

    def _note_failure(self, lived_seconds: float, how: str) -> float:
        """Count a death; the seconds until the next start: never less than half of what doubles each time, and
        spread over the other half, so that those who died together do not come back together."""
        options = self._options
        if lived_seconds >= options.settled_seconds:
            self.failures = 0
        ceiling = min(
            options.longest_delay_seconds, options.first_delay_seconds * 2.0 ** min(self.failures, 32)
        )
        self.failures += 1
        self.last_failure = how
        return self._chance.uniform(ceiling / 2, ceiling)


def describe_end(code: int) -> str:
    """What a return code says, as a person would: its status, or the signal that ended it."""
    if code >= 0:
        return f"status {code}"
    with contextlib.suppress(ValueError):
        return f"signal {-code}, {signal.Signals(-code).name}"
    return f"signal {-code}"
