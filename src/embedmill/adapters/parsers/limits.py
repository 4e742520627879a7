"""The walls around the parsing process: memory, processor time, files, core dumps, death with its parent.
Owns what the operating system is asked to hold; must not know what is parsed."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_OPEN_FILES = 128
_PR_SET_PDEATHSIG = 1


def close_in() -> None:
    """Set what holds for the life of the process: it writes no file, dumps no core, dies with its parent."""
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    if sys.platform == "linux":
        # A parent that is killed by kill -9 cannot end its children; the kernel does. If it died just before
        # this line, the end of stdin tells.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Allowance:
    """What one document may spend: memory above what the libraries hold already, and processor seconds."""

    def __init__(self, memory_bytes: int, cpu_seconds: int) -> None:
        self._memory_bytes = memory_bytes
        self._cpu_seconds = cpu_seconds

    def begin(self) -> None:
        """Count from now: what stood before, an earlier document's fragments included, is not charged."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + self._cpu_seconds + 1
        _set_soft(resource.RLIMIT_CPU, seconds)
        self._hold_memory()

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """While a library is loaded, before it sees the document: one reserves a gigabyte of addresses."""
        _set_soft(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        try:
            yield
        finally:
            self._hold_memory()

    def _hold_memory(self) -> None:
        held = _address_space_bytes()
        # Without /proc (macOS) the system does not hold RLIMIT_AS either: the pool's recycling remains.
        if held is not None:
            _set_soft(resource.RLIMIT_AS, held + self._memory_bytes)


def _address_space_bytes() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return None
    return int(pages) * resource.getpagesize()


def _set_soft(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
        value = hard
    resource.setrlimit(limit, (value, hard))


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
