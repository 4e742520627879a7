"""Forms as bytes, and what read_form makes of them: for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from embedmill.api.multipart import FilePart, Form, FormLimits, read_form

BOUNDARY = "----form4711"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Read:
    """A file that was read to its end."""

    part: FilePart
    content: bytes


def part(content: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"--" + BOUNDARY.encode() + b"\r\n" + lines + b"\r\n" + content + b"\r\n"


def text(name: str, value: bytes | str) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return part(content, f'Content-Disposition: form-data; name="{name}"'.encode())


def file(name: str | bytes, content: bytes, media_type: str = "text/plain") -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return part(
        content,
        b'Content-Disposition: form-data; name="file"; filename="' + raw + b'"',
        f"Content-Type: {media_type}".encode(),
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def chunked(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


async def whole(part: FilePart, content: AsyncIterator[bytes]) -> Read:
    return Read(part, b"".join([chunk async for chunk in content]))


async def read(
    body: bytes | Iterable[bytes], content_type: str = TYPE, limits: FormLimits | None = None
) -> Form[Read]:
    chunks = [body] if isinstance(body, bytes) else body
    return await read_form(chunked(chunks), content_type, on_file=whole, limits=limits or FormLimits())
