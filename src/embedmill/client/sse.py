"""Reads a stream of server-sent events (the WHATWG grammar), however its bytes are cut. Pure: bytes in, events out."""

from __future__ import annotations

import re
from typing import Any, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")
_Kind: TypeAlias = type[T]  # within Event, `type` is a field
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True):
    """One event. `id` orders it, and a stream can be taken up again behind it; a `progress` has none, it is a picture
    of the moment. `data` is JSON."""

    type: str
    data: str
    id: str | None = None

    @property
    def payload(self) -> Any:
        """The data, decoded. Raises ValueError where it is no JSON."""
        return msgspec.json.decode(self.data)

    def decode(self, kind: _Kind[T]) -> T:
        """The data as a record: `event.decode(IngestionJob)` of a job's `progress`."""
        return msgspec.json.decode(self.data, type=kind)


class EventParser:
    """Feed it bytes as they come. `last_event_id` is where to go on; `retry_seconds` what the server asks for."""

    def __init__(self, last_event_id: str | None = None) -> None:
        self.last_event_id = last_event_id
        self.retry_seconds: float | None = None
        self._line = bytearray()
        self._is_behind_cr = False
        self._is_at_start = True
        self._begin()

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are whole now."""
        if self._is_behind_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._is_behind_cr = False
        events: list[Event] = []
        start = 0
        for end in _LINE_END.finditer(piece):
            self._line += piece[start : end.start()]
            start = end.end()
            event = self._take(self._whole_line())
            if event is not None:
                events.append(event)
        self._line += piece[start:]
        # Whether this CR ends a line alone or with a LF is told by the next piece; the line has ended either way.
        if piece:
            self._is_behind_cr = piece.endswith(b"\r")
        return events

    def _whole_line(self) -> str:
        line = bytes(self._line)
        self._line.clear()
        if self._is_at_start:
            line = line.removeprefix(_BOM)
            self._is_at_start = False
        return line.decode("utf-8", "replace")

    def _begin(self) -> None:
        self._type = ""
        self._data: list[str] = []
        self._id: str | None = None

    def _take(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_seconds = int(value[:9]) / 1000
        return None

    def _dispatch(self) -> Event | None:
        """A blank line: the event is whole. An id counts even where there is nothing else."""
        if self._id is not None:
            self.last_event_id = self._id or None
        event = Event(self._type or "message", "\n".join(self._data), self._id) if self._data else None
        self._begin()
        return event
