"""The stand-in's end of a connection: HTTP/1.1 with keep-alive, read by hand because a library would
dominate the measurement. Owns bytes and connections; what to answer is the service's business."""

from __future__ import annotations

import asyncio
from email.utils import formatdate

from tests.support.provider.service import Ending, Reply, Service, phrase_of

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024


class BadRequestError(Exception):
    """What came in is not HTTP that can be answered."""


class Connection(asyncio.Protocol):
    """One client. Calls of one connection are answered one after the other, as HTTP/1.1 wants."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._body_starts = 0
        self._busy = False
        self._call_open = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        ledger = self._service.ledger
        ledger.connections += 1
        ledger.max_connections = max(ledger.max_connections, ledger.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._service.ledger.connections -= 1
        if self._timer is not None:
            self._timer.cancel()
        self._end_call()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._serve_next()

    def _serve_next(self) -> None:
        while not self._busy and self._transport is not None:
            try:
                request = self._next_request()
            except BadRequestError as error:
                self._write(Reply(400, str(error).encode(), content_type="text/plain"))
                self._close()
                return
            if request is None:
                return
            self._busy = True
            (method, target, headers), body = request
            self._begin(self._service.handle(method, target, headers, body))

    def _next_request(self) -> tuple[tuple[str, str, dict[str, str]], bytes] | None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise BadRequestError("the head is too long")
                return None
            self._head = _parsed_head(bytes(self._buffer[:end]))
            self._body_starts = end + 4
            if self._head[2].get("expect", "").lower() == "100-continue":
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        taken = self._take_body(self._head[2])
        if taken is None:
            return None
        body, used = taken
        head, self._head = self._head, None
        del self._buffer[:used]
        return head, body

    def _take_body(self, headers: dict[str, str]) -> tuple[bytes, int] | None:
        """The body and how much of the buffer is used up, once all of it is there."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return _dechunked(self._buffer, self._body_starts)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            raise BadRequestError("a bad content-length")
        end = self._body_starts + int(length)
        if len(self._buffer) < end:
            return None
        return bytes(memoryview(self._buffer)[self._body_starts : end]), end

    def _begin(self, reply: Reply) -> None:
        self._call_open = reply.is_call
        if reply.outcome and reply.ending is not Ending.ANSWER:
            self._service.ledger.outcome(reply.outcome)
        if reply.ending is Ending.HANG:
            return
        if reply.delay_seconds > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(reply.delay_seconds, self._finish_and_go_on, reply)
        else:
            self._finish(reply)

    def _finish_and_go_on(self, reply: Reply) -> None:
        self._finish(reply)
        self._serve_next()

    def _finish(self, reply: Reply) -> None:
        if reply.ending is Ending.DROP:
            self._end_call()
            self._abort()
        elif reply.ending is Ending.DROP_MID:
            self._send(_head_bytes(reply) + reply.body[: len(reply.body) // 2])
            self._end_call()
            self._close()
        elif reply.ending is Ending.DRIP:
            self._drip(_head_bytes(reply), reply.body, reply.drip_seconds / 20, max(1, len(reply.body) // 20))
        else:
            if reply.outcome:
                self._service.ledger.outcome(reply.outcome)
            self._write(reply)
            self._end_call()
            self._busy = False

    def _drip(self, first: bytes, rest: bytes, pause_seconds: float, piece_bytes: int) -> None:
        self._send(first)
        if not rest:
            self._end_call()
            self._busy = False
            self._serve_next()
            return
        self._timer = asyncio.get_running_loop().call_later(
            pause_seconds, self._drip, rest[:piece_bytes], rest[piece_bytes:], pause_seconds, piece_bytes
        )

    def _end_call(self) -> None:
        if self._call_open:
            self._call_open = False
            self._service.ledger.call_ends()

    def _write(self, reply: Reply) -> None:
        if self._transport is not None:
            self._transport.writelines((_head_bytes(reply), reply.body))

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _parsed_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequestError("not HTTP/1.1")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequestError("a header without a colon")
        headers[name.strip().lower()] = value.strip()
    return parts[0], parts[1], headers


def _dechunked(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    pieces: list[bytes] = []
    position = start
    while True:
        line_end = buffer.find(b"\r\n", position)
        if line_end < 0:
            return None
        try:
            size = int(bytes(buffer[position:line_end]).split(b";")[0], 16)
        except ValueError as error:
            raise BadRequestError("a bad chunk size") from error
        data_start = line_end + 2
        if size == 0:
            end = buffer.find(b"\r\n", data_start)  # no trailers are expected
            return (b"".join(pieces), end + 2) if end >= 0 else None
        if len(buffer) < data_start + size + 2:
            return None
        pieces.append(bytes(buffer[data_start : data_start + size]))
        position = data_start + size + 2


def _head_bytes(reply: Reply) -> bytes:
    extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    return (
        f"HTTP/1.1 {reply.status} {phrase_of(reply.status)}\r\n"
        f"content-type: {reply.content_type}\r\n"
        f"content-length: {len(reply.body)}\r\n"
        f"date: {formatdate(usegmt=True)}\r\n"
        f"{extra}\r\n"
    ).encode("latin-1")
