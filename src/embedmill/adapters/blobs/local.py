"""Originals in a folder of this machine, or one that machines share. Owns its layout, rights and durability:
`<folder>/tenants/<id>/<uuid>`, folders 0700, files 0600. Must not copy what can be read where it stands."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, closing
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from embedmill.adapters.blobs.failures import explain_missing, explain_system_error
from embedmill.adapters.blobs.keys import check_key, check_prefix, check_removable, is_removable
from embedmill.adapters.blobs.part_file import PartFile, make_folder, part_file
from embedmill.adapters.blobs.pieces import PIECE_BYTES, read_pieces
from embedmill.adapters.blobs.threads import in_thread
from embedmill.errors import StorageError
from embedmill.ports import StoredOriginal

T = TypeVar("T")
_KEYS_AT_ONCE = 1000


class LocalOriginals:
    """See ports.Originals."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        return str(self._folder)

    async def put(self, key: str, chunks: AsyncIterator[bytes], *, max_bytes: int) -> StoredOriginal:
        path = self._folder / check_key(key)
        digest = hashlib.sha256()
        size_bytes = 0

        def take(part: PartFile, piece: bytes) -> None:
            digest.update(piece)
            part.write(piece)

        await self._on_disk(partial(make_folder, path.parent))
        async with part_file(path, self._on_disk) as part:
            async for piece in read_pieces(chunks, max_bytes=max_bytes):
                await self._on_disk(partial(take, part, piece))
                size_bytes += len(piece)
        return StoredOriginal(key, size_bytes, digest.digest())

    async def get_to(self, key: str, path: Path) -> None:
        async with self.open_path(key) as original:
            source = await self._on_disk(lambda: original.open("rb"))
            with source:
                async with part_file(path, self._on_disk) as part:
                    while piece := await self._on_disk(partial(source.read, PIECE_BYTES)):
                        await self._on_disk(partial(part.write, piece))

    @asynccontextmanager
    async def open_path(self, key: str) -> AsyncIterator[Path]:
        path = self._folder / check_key(key)
        if not await self._on_disk(partial(_is_file, path)):
            raise explain_missing(key, self.place)
        yield path

    async def delete(self, key: str) -> None:
        path = self._folder / check_removable(key)
        await self._on_disk(partial(path.unlink, missing_ok=True))

    async def list_older(self, prefix: str, before: datetime) -> AsyncIterator[str]:
        folder = self._folder / check_prefix(prefix)
        with closing(_walk(self._folder, folder, before.timestamp())) as keys:
            # Deleting what was listed so far does not disturb the listing.
            while batch := await self._on_disk(lambda: list(islice(keys, _KEYS_AT_ONCE))):
                for key in batch:
                    yield key

    async def check(self) -> None:
        await self._on_disk(self._probe)

    def _probe(self) -> None:
        make_folder(self._folder)
        part = PartFile(self._folder / f"probe-{secrets.token_hex(8)}")
        written = secrets.token_bytes(16)
        try:
            part.open()
            part.write(written)
            part.commit()
            if part.path.read_bytes() != written:
                raise StorageError("failed", f"{self.place} gives back other bytes than it was given")
        finally:
            part.discard()

    async def _on_disk(self, work: Callable[[], T]) -> T:
        """In a thread, with the errors of the disk (and of nothing else) put into words."""
        try:
            return await in_thread(work)
        except OSError as error:
            raise explain_system_error(error, self.place) from error


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _walk(root: Path, folder: Path, before: float) -> Generator[str]:
    """Keys in the folder and below, last written before that time; foreign files are passed over."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, Path(entry.path), before)
                continue
            key = Path(entry.path).relative_to(root).as_posix()
            if is_removable(key) and _written(entry) < before:
                yield key


def _written(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:  # deleted since
        return float("inf")
