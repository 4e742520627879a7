"""Opens what was named as a document without ever waiting on it. Owns the checks on a path before its bytes
are believed; must not know any file format."""

from __future__ import annotations

import os
import stat

from embedmill.errors import DocumentError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular_file(path: str, max_bytes: int) -> int:
    """The size of the file in bytes. Raises DocumentError: `unreadable`, `empty` or `too_large`."""
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer that may never come.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise DocumentError("unreadable", f"The file cannot be opened: {_why(error)}.") from error
    try:
        status = os.fstat(handle)
    finally:
        os.close(handle)
    for is_kind, words in _KINDS:
        if is_kind(status.st_mode):
            raise DocumentError("unreadable", f"This is {words}, not a file; name a file instead.")
    if status.st_size > max_bytes:
        raise DocumentError(
            "too_large",
            f"The file has {megabytes(status.st_size)}, the limit is {megabytes(max_bytes)}; "
            "split it, or raise the limit on file size.",
        )
    if status.st_size == 0:
        raise DocumentError("empty", "The file is empty (0 bytes).")
    return status.st_size


def read_bytes(path: str, limit: int | None = None) -> bytes:
    """The first `limit` bytes of the file, or all. Raises DocumentError("unreadable")."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- a path with odd bytes must stay as it came
            # A bare read(limit) would set the whole limit aside, however small the file.
            size = os.fstat(file.fileno()).st_size
            return file.read() if limit is None else file.read(min(limit, size + 1))
    except OSError as error:
        raise DocumentError("unreadable", f"The file cannot be read: {_why(error)}.") from error


def megabytes(count: int) -> str:
    return f"{count / 1_000_000:,.1f} MB"


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file, or a link that leads nowhere"
    if isinstance(error, PermissionError):
        return "permission denied"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
