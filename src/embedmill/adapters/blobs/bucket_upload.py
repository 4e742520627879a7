"""One upload into a bucket: a small original in one request, a large one in parts as it comes. Owns that nothing
is left of one that ends early: obstore ends a multipart upload only when its own reader fails, so it is made to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError

from embedmill.adapters.blobs.failures import explain_bucket_error
from embedmill.adapters.blobs.threads import in_thread
from embedmill.errors import StorageError
from embedmill.ports import StoredOriginal

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PART_BYTES = 8 * 1024 * 1024
"""S3 takes 10,000 parts: originals of up to 80 GB."""
PARTS_AT_ONCE = 2
"""What one upload holds in memory is this many parts and the one being filled."""
UNDO_SECONDS = 60.0

_Upload = asyncio.Task[object]
_ENDING: set[_Upload] = set()
"""Uploads that outlived the patience of `undo`: held, for asyncio itself holds tasks only weakly."""


class _AbandonedError(Exception):
    """Tells obstore to end the multipart upload."""


@contextmanager
def explained(place: str, doing: str, key: str) -> Iterator[None]:
    """Errors of obstore in words. Nothing but calls of obstore may stand inside: a reader's own pass untouched."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise explain_bucket_error(error, place, doing, key) from error


class BucketUpload:
    """Write pieces, then finish; undo after any error or cancellation."""

    def __init__(self, store: ObjectStore, place: str, key: str) -> None:
        self._store = store
        self._key = key
        self._explained = partial(explained, place, "write to", key)
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._head: list[bytes] = []
        self._feed = _Feed()
        self._upload: _Upload | None = None

    async def write(self, piece: bytes) -> None:
        await in_thread(partial(self._digest.update, piece))
        self._size_bytes += len(piece)
        if self._upload is None:
            self._head.append(piece)
            if self._size_bytes > PART_BYTES:
                await self._begin_parts()
        else:
            await self._offer(piece)

    async def finish(self) -> StoredOriginal:
        if self._upload is None:
            whole = b"".join(self._head)
            self._upload = _started(obstore.put_async(self._store, self._key, whole, use_multipart=False))
        else:
            await self._offer(None)
        with self._explained():
            # A request that is cancelled half way may be carried out all the same: only its end tells.
            await asyncio.shield(self._upload)
        return StoredOriginal(self._key, self._size_bytes, self._digest.digest())

    async def undo(self) -> None:
        """Make the upload fail, wait for its end, and remove the object if it stands all the same."""
        if self._upload is None:
            return
        self._feed.abandon()
        _ENDING.add(self._upload)
        self._upload.add_done_callback(_ENDING.discard)
        await asyncio.wait({self._upload}, timeout=UNDO_SECONDS)
        if self._upload.done() and not self._upload.cancelled() and self._upload.exception() is None:
            with self._explained():
                await obstore.delete_async(self._store, self._key)

    async def _begin_parts(self) -> None:
        self._upload = _started(
            obstore.put_async(
                self._store,
                self._key,
                self._feed.pieces(),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        )
        head, self._head = self._head, []
        for piece in head:
            await self._offer(piece)

    async def _offer(self, piece: bytes | None) -> None:
        """Hand a piece on as soon as there is room, or raise what ended the upload."""
        assert self._upload is not None  # noqa: S101
        await self._feed.offer(piece, self._upload)
        if piece is not None and self._upload.done():
            with self._explained():
                self._upload.result()
            raise StorageError("failed", "the upload ended before its file did", retryable=True)


class _Feed:
    """What obstore reads from: pieces until None, or an error as soon as it was abandoned."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._is_abandoned = False

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            piece = await self._waiting.get()
            if self._is_abandoned:
                raise _AbandonedError
            if piece is None:
                return
            yield piece

    async def offer(self, piece: bytes | None, reader: _Upload) -> None:
        """Return when the piece was taken up, or when the reader has ended and takes none any more."""
        adding = asyncio.ensure_future(self._waiting.put(piece))
        try:
            await asyncio.wait({adding, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            adding.cancel()

    def abandon(self) -> None:
        self._is_abandoned = True
        if self._waiting.empty():
            self._waiting.put_nowait(None)


def _started(request: object) -> _Upload:
    async def perform() -> object:
        return await request  # type: ignore[misc]  # obstore's own awaitable, which create_task does not take

    return asyncio.create_task(perform(), name="original to bucket")
