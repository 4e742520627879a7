"""A file that appears whole or not at all: written beside its place under another name, brought to the disk, and
renamed. Blocking; must not be used by two threads at once."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class PartFile:
    """Write, then commit or discard. After a crash at most `<name>.part-<8 hex>` is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
        self._descriptor: int | None = None
        self._committed = False

    def open(self) -> None:
        # O_EXCL: never through a link or into a file that somebody else put there.
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, piece: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101  # open() comes first
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def commit(self) -> None:
        """To the disk, and under its name: the folder is brought to the disk as well, or a power cut could
        take the name away again."""
        assert self._descriptor is not None  # noqa: S101
        os.fsync(self._descriptor)
        self._close()
        self._part.replace(self.path)
        self._committed = True
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written, even if it stands under its name already."""
        with suppress(OSError):  # what a full disk says at the end of a file that goes anyway
            self._close()
        (self.path if self._committed else self._part).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


@asynccontextmanager
async def part_file(
    path: Path, on_disk: Callable[[Callable[[], None]], Awaitable[None]]
) -> AsyncIterator[PartFile]:
    """A file that is opened, and committed where the block ends well; else, by a cancellation as well, nothing is
    left. `on_disk` does the blocking work."""
    part = PartFile(path)
    try:
        await on_disk(part.open)
        yield part
        await on_disk(part.commit)
    except BaseException:
        await on_disk(part.discard)
        raise


def make_folder(folder: Path) -> None:
    """The folder with all above it, each new one for this account alone, and on the disk."""
    missing = [folder]
    while not missing[-1].parent.is_dir() and missing[-1].parent != missing[-1]:
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:
            if not each.is_dir():
                raise
        else:
            sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
