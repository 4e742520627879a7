"""A parsing process that waits at a gate: the test opens it. Owns the protocol's other side for documents of one chunk;
must not assert."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from embedmill.ingest.parsing import ParserPool

_CHILD = """
import os, pathlib, sys, time, msgspec
from embedmill.core.documents import Chunk, ParsedDocument
from embedmill.ingest.parsing_protocol import *
begun, gate = map(pathlib.Path, sys.argv[1:])
def send(reply):
    os.write(1, framed(msgspec.msgpack.encode(reply)))
send(ChildReady())
while header := sys.stdin.buffer.read(8):
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(LENGTH.unpack(header)[0]), type=ParseRequest)
    begun.touch()
    while not gate.exists():
        time.sleep(0.01)
    text = pathlib.Path(request.path).read_text()
    send(ParseReply(ParsedDocument(text, "text/plain"), (Chunk(0, 0, len(text), text, 3),)))
"""


class GatedParsers:
    """`pool` for a runner; nothing is read before `open()`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._begun, self._gate = folder / "begun", folder / "gate"
        self.pool = ParserPool([sys.executable, "-c", _CHILD, str(self._begun), str(self._gate)], size=1)

    async def until_reading(self) -> None:
        async with asyncio.timeout(60):
            while not self._begun.exists():
                await asyncio.sleep(0.01)

    def open(self) -> None:
        self._gate.touch()
