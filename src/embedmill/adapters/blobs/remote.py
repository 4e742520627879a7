"""Originals in a bucket (S3, GCS, Azure) by obstore, which reads the usual credentials itself. Owns what is put
there; must not hold an original whole, nor leave a part of one. A process that is killed in the middle of a large
upload leaves parts that no listing shows: the bucket's own rule for incomplete uploads removes those."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import obstore

from embedmill.adapters.blobs.bucket_upload import BucketUpload, explained
from embedmill.adapters.blobs.failures import explain_silence, explain_system_error
from embedmill.adapters.blobs.keys import check_key, check_prefix, check_removable, is_removable
from embedmill.adapters.blobs.part_file import make_folder, part_file
from embedmill.adapters.blobs.pieces import PIECE_BYTES, read_pieces
from embedmill.adapters.blobs.threads import in_thread
from embedmill.errors import StorageError
from embedmill.ports import StoredOriginal

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore

T = TypeVar("T")
CHECK_SECONDS = 20.0
STALE_SECONDS = 24 * 3600.0
"""No parser reads a local copy for so long: older ones were left by a process that died."""


class RemoteOriginals:
    """See ports.Originals. `place` is the URL without anything secret."""

    def __init__(self, store: ObjectStore, place: str, scratch_dir: Path) -> None:
        self._store = store
        self._place = place
        self._scratch_dir = scratch_dir
        self._is_scratch_ready = False

    @property
    def place(self) -> str:
        return self._place

    async def put(self, key: str, chunks: AsyncIterator[bytes], *, max_bytes: int) -> StoredOriginal:
        upload = BucketUpload(self._store, self._place, check_key(key))
        try:
            async for piece in read_pieces(chunks, max_bytes=max_bytes):
                await upload.write(piece)
            return await upload.finish()
        except BaseException:  # a cancellation as well: nothing may be left
            await upload.undo()
            raise

    async def get_to(self, key: str, path: Path) -> None:
        check_key(key)
        with self._explained("read from", key):
            found = await obstore.get_async(self._store, key)
        async with part_file(path, partial(_on_disk, path=path)) as part:
            async for piece in self._pieces(found, key):
                await _on_disk(partial(part.write, piece), path)

    @asynccontextmanager
    async def open_path(self, key: str) -> AsyncIterator[Path]:
        copy = self._scratch_dir / f"original-{uuid4().hex}"
        await _on_disk(self._prepare_scratch, copy)
        try:
            await self.get_to(key, copy)
            yield copy
        finally:
            await _on_disk(partial(copy.unlink, missing_ok=True), copy)

    async def delete(self, key: str) -> None:
        check_removable(key)
        try:
            with self._explained("remove from", key):
                await obstore.delete_async(self._store, key)
        except StorageError as error:
            if error.reason != "missing":
                raise

    async def list_older(self, prefix: str, before: datetime) -> AsyncIterator[str]:
        batches = obstore.list(self._store, check_prefix(prefix), chunk_size=1000)
        while True:
            with self._explained("list", prefix):
                batch = await anext(batches, None)
            if batch is None:
                return
            for found in batch:
                if is_removable(found["path"]) and found["last_modified"] < before:
                    yield found["path"]

    async def check(self) -> None:
        probe = f"probes/{secrets.token_hex(8)}"
        written = secrets.token_bytes(16)
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                with self._explained("write to", probe):
                    await obstore.put_async(self._store, probe, written)
                with self._explained("read from", probe):
                    read = bytes(await (await obstore.get_async(self._store, probe)).bytes_async())
                with self._explained("remove from", probe):
                    await obstore.delete_async(self._store, probe)
        except TimeoutError as error:
            raise explain_silence(self._place) from error
        if read != written:
            raise StorageError("failed", f"{self._place} gives back other bytes than it was given")

    async def _pieces(self, found: GetResult, key: str) -> AsyncIterator[bytes]:
        """The object as it comes. Raises StorageError where it breaks off."""
        stream = found.stream(min_chunk_size=PIECE_BYTES)
        read_bytes = 0
        while True:
            with self._explained("read from", key):
                piece = await anext(stream, None)
            if piece is None:
                break
            read_bytes += len(piece)
            yield bytes(piece)
        if read_bytes != found.meta["size"]:
            raise explain_silence(self._place)

    def _prepare_scratch(self) -> None:
        """Make the folder; once in a life, remove copies that a process left which was killed."""
        make_folder(self._scratch_dir)
        if self._is_scratch_ready:
            return
        self._is_scratch_ready = True
        for old in self._scratch_dir.glob("original-*"):
            if old.stat().st_mtime < time.time() - STALE_SECONDS:
                old.unlink(missing_ok=True)

    def _explained(self, doing: str, key: str) -> AbstractContextManager[None]:
        return explained(self._place, doing, key)


async def _on_disk(work: Callable[[], T], path: Path) -> T:
    """In a thread, with the errors of the disk put into words."""
    try:
        return await in_thread(work)
    except OSError as error:
        raise explain_system_error(error, str(path.parent)) from error
