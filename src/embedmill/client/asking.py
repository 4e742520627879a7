"""Asks the service: a call becomes a message, its answer a record or an error, and what broke off is asked again where
that does no harm. Owns when to ask again; must not know an endpoint."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from embedmill.client.endpoints import Call, Nothing
from embedmill.client.errors import (
    ApiConflictError,
    ApiError,
    ApiNotFoundError,
    ServiceUnreachableError,
    UnreadableAnswerError,
    error_of,
)
from embedmill.client.sse import Event, EventParser
from embedmill.client.wire import Answer, Message, Wire
from embedmill.core.retrying import backoff_seconds
from embedmill.errors import EmbedmillError

T = TypeVar("T")
LONGEST_WAIT_SECONDS = 60.0
"""Told to wait for longer than this, we do not: the caller hears of it, with `retry_after`."""
SILENCE_SECONDS = 45.0
"""The service speaks on a stream every 15 seconds."""
_PASSING = {429, 502, 503}


@dataclass(frozen=True)
class Manner:
    """How the service is asked. `chance` spreads the tries of many clients."""

    base_url: str
    headers: dict[str, str]
    timeout_seconds: float
    retries: int
    chance: random.Random


class Asking:
    """Both clients ask through this one; `wire` decides how it waits."""

    def __init__(self, wire: Wire, manner: Manner) -> None:
        self.wire = wire
        self._manner = manner

    async def ask(self, call: Call[T], *, timeout_seconds: float | None = None) -> T:
        """The answer. Raises ApiError, ServiceUnreachableError, UnreadableAnswerError."""
        attempt = 0
        while True:
            try:
                return await self._ask_once(call, timeout_seconds)
            except (ApiError, ServiceUnreachableError) as error:
                if (
                    attempt
                    and call.method == "DELETE"
                    and isinstance(error, ApiNotFoundError)
                    and _is_empty(call)
                ):
                    return call.result()  # the try before did it, and its answer was lost
                seconds = self._pause(call, error, attempt)
                if seconds is None:
                    raise
            attempt += 1
            await self.wire.sleep(seconds)

    async def listen(
        self, call: Call[msgspec.Raw], last_event_id: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """The events of a stream without end; where it breaks off it is taken up again behind the last event. Raises
        what `ask` raises, when the tries in a row are spent."""
        position = EventParser(last_event_id)
        failures = 0
        while True:
            pause: float | None = position.retry_seconds or 2.0
            position = EventParser(position.last_event_id)
            try:
                async with contextlib.aclosing(self.listen_once(call, position, SILENCE_SECONDS)) as events:
                    async for event in events:
                        failures = 0
                        yield event
            except (ApiError, ServiceUnreachableError) as error:
                pause = self._pause(call, error, failures)
                if pause is None:
                    raise
                failures += 1
            await self.wire.sleep(pause or 0.0)

    async def listen_once(
        self, call: Call[msgspec.Raw], position: EventParser, silence_seconds: float
    ) -> AsyncGenerator[Event, None]:
        """The events of one connection, until it ends. `position` says from where, and knows afterwards how far."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if position.last_event_id is not None:
            headers["Last-Event-ID"] = position.last_event_id
        async with self.wire.open(self._message(call, silence_seconds, headers)) as opened:
            if not 200 <= opened.answer.status < 300:
                raise error_of(opened.answer.status, opened.answer.headers, opened.answer.content)
            kind = opened.answer.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise UnreadableAnswerError(
                    f"a stream of events is expected at {call.path}, and it is {kind!r}"
                )
            async for piece in _closing(opened.pieces):
                for event in position.feed(piece):
                    yield event

    async def _ask_once(self, call: Call[T], timeout_seconds: float | None) -> T:
        seconds = self._manner.timeout_seconds if timeout_seconds is None else timeout_seconds
        answer = await self.wire.send(self._message(call, seconds, {"Accept": "application/json"}))
        if 200 <= answer.status < 300 or answer.status in call.accepts:
            return _decoded(call, answer)
        raise error_of(answer.status, answer.headers, answer.content)

    def _message(self, call: Call[T], read_seconds: float, headers: dict[str, str]) -> Message:
        return Message(
            method=call.method,
            url=self._manner.base_url + call.path,
            query=call.query,
            headers={**self._manner.headers, **headers, **dict(call.headers)},
            content=call.form if call.form is not None else call.body,
            read_seconds=read_seconds,
        )

    def _pause(self, call: Call[T], error: EmbedmillError, attempt: int) -> float | None:
        """Seconds until the next try, None where there shall be none."""
        if attempt >= self._manner.retries or not _may_ask_again(call, error):
            return None
        told = error.retry_after if isinstance(error, ApiError) else None
        if told is not None and told > LONGEST_WAIT_SECONDS:
            return None
        spread = min(backoff_seconds(attempt, self._manner.chance), LONGEST_WAIT_SECONDS)
        return spread if told is None else told + min(spread, 1.0)


def _may_ask_again(call: Call[T], error: EmbedmillError) -> bool:
    if not call.is_repeatable:
        return False
    if isinstance(error, ApiConflictError):  # our own try before is still being answered
        return error.code == "request_in_progress"
    if isinstance(error, ApiError):
        return error.status in _PASSING
    return isinstance(error, ServiceUnreachableError)


def _is_empty(call: Call[T]) -> bool:
    return call.result is Nothing


def _decoded(call: Call[T], answer: Answer) -> T:
    if _is_empty(call):
        return call.result()
    try:
        return msgspec.json.decode(answer.content, type=call.result)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnreadableAnswerError(
            f"the answer to {call.method} {call.path} cannot be read ({error}): does base_url lead to embedmill, "
            "and is the client not older than the service?"
        ) from error


async def _closing(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """A stream's pieces, given up in order where nobody wants more."""
    try:
        async for piece in pieces:
            yield piece
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
