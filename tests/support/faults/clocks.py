"""A wall clock that is off, for this process only. Owns time.time and datetime.now; the monotonic clock stays
right, as it does on a machine whose wall clock is wrong."""

from __future__ import annotations

import datetime
import time
from typing import Any

# Before the class is exchanged: it registers what it adapts by the class itself.
import psycopg.types.datetime  # noqa: F401

_RightDatetime = datetime.datetime


def skew(seconds: float) -> None:
    """From now on this process thinks that it is so much later (or earlier)."""
    right_time, right_time_ns = time.time, time.time_ns

    class AnyDatetime(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, _RightDatetime)

    class SkewedDatetime(_RightDatetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _RightDatetime.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return _RightDatetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    time.time = lambda: right_time() + seconds
    time.time_ns = lambda: right_time_ns() + int(seconds * 1e9)
    datetime.datetime = SkewedDatetime  # type: ignore[misc]
