"""Streams to be stored: bytes as they come from a network, and readers that fail or stand still."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

MIB = 1024 * 1024


def made_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def stream_of(content: bytes, chunk_bytes: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), chunk_bytes):
        await asyncio.sleep(0)
        yield content[start : start + chunk_bytes]


async def failing_stream(content: bytes, error: BaseException) -> AsyncIterator[bytes]:
    async for chunk in stream_of(content):
        yield chunk
    raise error


async def standing_stream(content: bytes, reached: asyncio.Event) -> AsyncIterator[bytes]:
    """Sets the event when all was taken, and then never ends."""
    async for chunk in stream_of(content):
        yield chunk
    reached.set()
    await asyncio.Event().wait()
