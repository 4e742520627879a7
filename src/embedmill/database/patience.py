"""Waits for a database that is away for a while: restarted, failed over, out of connections. Owns the retry of
operations that may be repeated; must not be used for one that may not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import structlog

from embedmill.errors import DatabaseUnreachableError

T = TypeVar("T")

AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,  # we were frozen within a transaction
    DatabaseUnreachableError,
)
"""The errors that a database gives while it is away; a wrong statement is none of them."""

_LONGEST_PAUSE_SECONDS = 5.0
_log = structlog.get_logger(__name__)


async def patiently(operation: Callable[[], Awaitable[T]], *, tries: int = 130) -> T:
    """Await `operation()`, again and again while the database is away: about ten minutes by default.

    The operation must be harmless to repeat, also where it was committed and only the answer was lost.
    """
    for attempt in range(tries):
        try:
            return await operation()
        except AWAY as error:
            if attempt == tries - 1:
                raise
            _log.warning("database away", attempt=attempt + 1, error=str(error).strip())
            await asyncio.sleep(min(_LONGEST_PAUSE_SECONDS, 0.05 * 2.0 ** min(attempt, 16)))
    raise AssertionError("the last attempt returns or raises")
