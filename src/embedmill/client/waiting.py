"""Waits for a job or a batch: by its stream of events, and by looking where streams do not get through. Owns the
patience with breaks and outages; must not show anything."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from embedmill.client.asking import Asking
from embedmill.client.endpoints import Call
from embedmill.client.errors import (
    ApiError,
    ServiceError,
    ServiceUnreachableError,
    TooManyRequestsError,
    UnreadableAnswerError,
)
from embedmill.client.sse import EventParser

R = TypeVar("R")
HEARD_SECONDS = 20.0
"""The service speaks on a stream every 15 seconds: one that is silent for longer is looked after."""
OUTAGE_SECONDS = 120.0
"""A service that is away for longer is not waited for any more."""
_SHORTEST_STREAM_SECONDS = 1.0
_LOOK_SECONDS = 1.0


class TimeIsUpError(Exception):
    """It is not there in time."""


@dataclass(frozen=True)
class Subject(Generic[R]):
    """What is waited for: how to look at it, where its events are, and when it is there."""

    look: Call[R]
    stream: Call[msgspec.Raw]
    is_there: Callable[[R], bool]
    show: Callable[[R], None]


class Waiting(Generic[R]):
    """One wait. `timeout_seconds` None: as long as it takes."""

    def __init__(
        self,
        asking: Asking,
        subject: Subject[R],
        *,
        timeout_seconds: float | None,
        outage_seconds: float = OUTAGE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asking = asking
        self._subject = subject
        self._now = now
        self._deadline = None if timeout_seconds is None else now() + timeout_seconds
        self._outage_seconds = outage_seconds
        self._away_since: float | None = None
        self._hears = True
        self._position = EventParser()
        self.seen: R | None = None

    async def run(self) -> R:
        """What it is when it is there. Raises TimeIsUpError, ApiError (it is gone, or is not ours), and
        ServiceUnreachableError after an outage."""
        while True:
            if await self._look() and self.seen is not None:
                return self.seen
            left = self._left()
            silence = HEARD_SECONDS if left is None else min(HEARD_SECONDS, left / 2)
            if self._hears and self._away_since is None and silence >= _SHORTEST_STREAM_SECONDS:
                if await self._hear(silence) and self.seen is not None:
                    return self.seen
            else:
                await self._asking.wire.sleep(_LOOK_SECONDS if left is None else min(_LOOK_SECONDS, left))

    async def _look(self) -> bool:
        """Whether it is there; a service that is away for a while is no reason to give up."""
        left = self._left()
        timeout = None if left is None or left > HEARD_SECONDS else max(left, _LOOK_SECONDS)
        try:
            seen = await self._asking.ask(self._subject.look, timeout_seconds=timeout)
        except (ServiceUnreachableError, ServiceError, TooManyRequestsError):
            if self._away_since is None:
                self._away_since = self._now()
            if self._now() - self._away_since >= self._outage_seconds:
                raise
            return False
        self._away_since = None
        return self._see(seen)

    async def _hear(self, silence_seconds: float) -> bool:
        """Whether it is there by the end of one connection. Ends early enough to be asked for a shorter one."""
        heard = False
        stream = self._asking.listen_once(self._subject.stream, self._position, silence_seconds)
        try:
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    heard = True
                    if event.type == "progress" and self._see(event.decode(self._subject.look.result)):
                        return True
                    left = self._left()
                    if left is not None and left < silence_seconds:
                        return False
        except ServiceUnreachableError as error:
            # A proxy that holds streams back lets nothing through, not even the first picture.
            self._hears = heard or not error.is_silence
        except (UnreadableAnswerError, ApiError, msgspec.MsgspecError):
            self._hears = False
        finally:
            self._position = EventParser(self._position.last_event_id)
        # A stream that ends at once, again and again, must not make us ask without a pause.
        left = self._left()
        await self._asking.wire.sleep(_LOOK_SECONDS if left is None else min(_LOOK_SECONDS, left))
        return False

    def _see(self, seen: R) -> bool:
        self.seen = seen
        self._subject.show(seen)
        return self._subject.is_there(seen)

    def _left(self) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - self._now()
        if left <= 0:
            raise TimeIsUpError
        return left
