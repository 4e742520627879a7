"""The figures of one process in a file that others read: exact up to a kill -9, for the kernel keeps what was written.
Owns the layout of the file and whose it is; must not know a metric.

A file is `SIZE` bytes, reserved at once (a full disk must not kill who writes through a map): the number of bytes in
use, then series after series: length of the key, the key in UTF-8 padded to eight bytes, number of values, the values
as doubles. It is locked (flock) as long as its process lives; the kernel lets go of the lock however the process ends.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

SIZE = 256 * 1024
SUFFIX = ".values"
_LOCK = "folder.lock"
_WORD = 8


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for oneself, for a moment: files come, go and are read in it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class ProcessFile:
    """One process's own. Add to `values[index]`, where `index` came from `add`; not from several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder cannot be made or written to, or knows no locks."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{uuid4().hex}{SUFFIX}"
        with locked(folder):
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(self._descriptor, struct.pack("=Q", _WORD) + bytes(SIZE - _WORD))
                self._map = mmap.mmap(self._descriptor, SIZE)
            except OSError:
                os.close(self._descriptor)
                self.path.unlink(missing_ok=True)
                raise
        self._view = memoryview(self._map)
        self._words = self._view.cast("Q")
        self.values = self._view.cast("d")

    def add(self, key: str, width: int) -> int | None:
        """A new series of so many values, all 0; where its first stands, None where the file is full."""
        name = key.encode()
        padded = name.ljust(-(-len(name) // _WORD) * _WORD)
        start = self._words[0]
        first = start + _WORD + len(padded) + _WORD
        end = first + width * _WORD
        if end > SIZE:
            return None
        self._map[start + _WORD : start + _WORD + len(padded)] = padded
        self._words[start // _WORD] = len(name)
        self._words[first // _WORD - 1] = width
        self._words[0] = end  # last: readers see a series whole or not at all
        return first // _WORD

    def close(self) -> None:
        """Let go of it: what it says is taken over by whoever reads the folder next."""
        self.values.release()
        self._words.release()
        self._view.release()
        self._map.close()
        os.close(self._descriptor)


def is_owned(path: Path) -> bool:
    """Whether the process of a file lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_values(path: Path) -> dict[str, list[float]]:
    """The series of a file. Raises ValueError for what is no such file."""
    data = path.read_bytes()
    found: dict[str, list[float]] = {}
    try:
        (end,) = struct.unpack_from("=Q", data)
        at = _WORD
        while at < min(end, len(data)):
            (length,) = struct.unpack_from("=Q", data, at)
            at += _WORD
            key = data[at : at + length].decode()
            at += -(-length // _WORD) * _WORD
            (width,) = struct.unpack_from("=Q", data, at)
            at += _WORD
            found[key] = list(struct.unpack_from(f"={width}d", data, at))
            at += width * _WORD
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path.name} does not hold figures of a process: {error}") from error
    return found
