"""The stream on its way into a store: counted, limited, and gathered into pieces worth a write. Must not know
where they go."""

from __future__ import annotations

from collections.abc import AsyncIterator

from embedmill.errors import DocumentError

PIECE_BYTES = 256 * 1024


async def read_pieces(chunks: AsyncIterator[bytes], *, max_bytes: int) -> AsyncIterator[bytes]:
    """The chunks joined to pieces of at least PIECE_BYTES (the last may be smaller, none is empty).

    Raises DocumentError(`too_large`) as soon as more than `max_bytes` came: nothing after that is read.
    """
    waiting: list[bytes] = []
    waiting_bytes = total_bytes = 0
    async for chunk in chunks:
        total_bytes += len(chunk)
        if total_bytes > max_bytes:
            raise DocumentError(
                "too_large", f"it is larger than {_in_words(max_bytes)}, the most that is taken"
            )
        waiting.append(chunk)
        waiting_bytes += len(chunk)
        if waiting_bytes >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting.clear()
            waiting_bytes = 0
    if waiting_bytes:
        yield b"".join(waiting)


def _in_words(size_bytes: int) -> str:
    if size_bytes < 1024 * 1024:
        return f"{size_bytes:,} bytes"
    return f"{size_bytes / (1024 * 1024):,.4g} MiB"
