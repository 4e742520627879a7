"""Forms with files (multipart/form-data), made while they are sent: no file is held in memory, and one that can be
opened again can be sent again. Owns the encoding; must not know what is uploaded, or how it is sent."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from embedmill.errors import EmbedmillError

BLOCK_BYTES = 64 * 1024
FileLike: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, the bytes themselves, or an open binary file."""


class FileChangedError(EmbedmillError):
    """A file became shorter while it was sent: upload it again when nobody writes to it."""


@dataclass(frozen=True)
class FilePart:
    """One file of a form. `size` is bytes, None where only reading it tells (a pipe)."""

    name: str
    source: Path | bytes | BinaryIO
    size: int | None
    start: int | None
    """Where an open file is read from, None where it cannot be wound back."""

    @classmethod
    def of(cls, source: FileLike, name: str | None = None) -> FilePart:
        """Raises OSError where there is no such file, ValueError where it needs a name, TypeError for what is no
        file."""
        if isinstance(source, (bytes, bytearray, memoryview)):
            content = bytes(source)
            return cls(_named(name, None), content, len(content), 0)
        if isinstance(source, (str, os.PathLike)):
            return cls._of_path(Path(source), name)
        if not hasattr(source, "read"):
            raise TypeError(f"a path, bytes or an open binary file is expected, not {type(source).__name__}")
        return cls._of_file(source, name)

    @classmethod
    def _of_path(cls, path: Path, name: str | None) -> FilePart:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(f"{path} is a folder: name its files")
        is_regular = stat.S_ISREG(found.st_mode)
        return cls(name or path.name, path, found.st_size if is_regular else None, 0 if is_regular else None)

    @classmethod
    def _of_file(cls, file: BinaryIO, name: str | None) -> FilePart:
        if isinstance(file.read(0), str):
            raise TypeError("the file is open as text: open it with mode 'rb'")
        own = getattr(file, "name", None)
        start = size = None
        with contextlib.suppress(OSError, AttributeError):  # a pipe, or something that only reads
            if file.seekable():
                start = file.tell()
                size = file.seek(0, os.SEEK_END) - start
                file.seek(start)
        return cls(_named(name, os.path.basename(own) if isinstance(own, str) else None), file, size, start)  # noqa: PTH119

    @property
    def is_repeatable(self) -> bool:
        return self.start is not None

    def blocks(self) -> Iterator[bytes]:
        """Its bytes: as many as it had when it was named. Raises FileChangedError where it has fewer now."""
        if isinstance(self.source, bytes):
            for place in range(0, len(self.source), BLOCK_BYTES):
                yield self.source[place : place + BLOCK_BYTES]
            return
        left = self.size
        with self._open() as file:
            while left is None or left > 0:
                block = file.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
                if not block:
                    break
                left = None if left is None else left - len(block)
                yield block
        if left:
            raise FileChangedError(
                f"{self.name} became shorter while it was sent: upload it again when it is whole"
            )

    def _open(self) -> AbstractContextManager[BinaryIO]:
        if isinstance(self.source, Path):
            return self.source.open("rb")
        assert not isinstance(self.source, bytes)  # noqa: S101 - bytes are not opened
        if self.start is not None:
            self.source.seek(self.start)
        return contextlib.nullcontext(self.source)


class Form:
    """Fields and files under one boundary. `length` is bytes, None where it is not known beforehand."""

    def __init__(
        self, fields: Sequence[tuple[str, str]], files: Sequence[FilePart], boundary: str | None = None
    ) -> None:
        self.fields = fields
        self.files = files
        self._boundary = (boundary or f"embedmill-{secrets.token_hex(16)}").encode()

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary.decode()}"

    @property
    def is_repeatable(self) -> bool:
        """Whether its bytes can be had again."""
        return all(file.is_repeatable for file in self.files)

    @property
    def length(self) -> int | None:
        total = len(self._end()) + sum(len(self._field(*field)) for field in self.fields)
        for file in self.files:
            if file.size is None:
                return None
            total += len(self._head(file)) + file.size + 2
        return total

    def blocks(self) -> Iterator[bytes]:
        """The form from its beginning. Fields come first: what is wrong with them is told before files are read."""
        for field in self.fields:
            yield self._field(*field)
        for file in self.files:
            yield self._head(file)
            yield from file.blocks()
            yield b"\r\n"
        yield self._end()

    def _field(self, name: str, value: str) -> bytes:
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
        return head % (self._boundary, _quoted(name)) + value.encode("utf-8", "replace") + b"\r\n"

    def _head(self, file: FilePart) -> bytes:
        head = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n'
        return head % (self._boundary, _quoted(file.name))

    def _end(self) -> bytes:
        return b"--%b--\r\n" % self._boundary


def _named(name: str | None, own: str | None) -> str:
    if name or own:
        return name or own or ""
    raise ValueError("bytes and unnamed files need a name, with an ending: name='report.pdf'")


def _quoted(name: str) -> bytes:
    """As browsers write it; a backslash is doubled, else it would hide the quote behind it."""
    escaped = name.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.encode("utf-8", "replace")
