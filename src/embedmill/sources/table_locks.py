"""Changes to a table's triggers wait for its writers, and writers queue up behind whoever waits: so each wait is brief,
and tried again. Owns that patience; must not know what is changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConflictError

_SQL = load_queries("embedmill.sources", "tables.sql")
_PAUSE_SECONDS = 0.5
LOCK_PATIENCE_SECONDS = 30.0
T = TypeVar("T")


async def with_table_locked(
    database: Database,
    relation: int,
    name: str,
    change: Callable[[Connection], Awaitable[T]],
    patience_seconds: float,
) -> T:
    """Do it in a transaction of its own, tried until the table's locks are had. Raises ConflictError that names who
    holds the table."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            async with database.transaction() as connection:
                await connection.execute(_SQL["lock_timeout"])
                return await change(connection)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() > deadline:
                holders = await _holders(database, relation)
                raise ConflictError(
                    f"{name} is held by a transaction that does not end ({holders}): it was tried for "
                    f"{patience_seconds:.0f} s, and nothing was changed. Let it end, or end it with "
                    "SELECT pg_terminate_backend(process), and try again"
                ) from error
        await asyncio.sleep(_PAUSE_SECONDS)


async def _holders(database: Database, relation: int) -> str:
    rows = await database.fetch(_SQL["holders"], {"relation": relation})
    return (
        ", ".join(f"{who}, process {pid}, for {seconds or 0:.0f} s" for pid, who, seconds in rows)
        or "it is gone now"
    )
