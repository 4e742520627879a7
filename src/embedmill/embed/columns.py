"""Vectors on their way into the database: beside their chunks, or into a column of a user's table. Owns the way of
a response's vectors, and the companion that brings home those which a user's table did not take at once; what is
written into a column is decided by functions/71_columns.sql."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from psycopg import sql

from embedmill.database.copying import copying
from embedmill.database.patience import patiently
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.embed.vector_copy import VECTOR_COLUMNS

_SQL = load_queries("embedmill.embed", "columns.sql")

# Rows of one transaction: each may be tried alone.
ROWS_AT_ONCE = 200
POLL_SECONDS = 0.5


async def store_vectors(
    connection: Connection, generation_id: int, pieces: Iterable[bytes | memoryview], *, into_columns: bool
) -> None:
    """Write what `encode_vectors` made, within a transaction. `into_columns`: some may be for a column of a user's
    table; those that it takes are kept nowhere else. Raises UniqueViolation where some chunk has its vector."""
    vectors = vectors_table(generation_id)
    if not into_columns:
        async with copying(connection, vectors, VECTOR_COLUMNS, binary=True) as copy:
            for piece in pieces:
                await copy.write(piece)
        return
    stage = sql.Identifier("pg_temp", f"staged_vectors_{int(generation_id)}")
    await connection.execute(_SQL["stage"].format(stage=stage, vectors=vectors))
    columns = sql.SQL(", ").join(map(sql.Identifier, VECTOR_COLUMNS))
    async with connection.cursor().copy(_SQL["copy"].format(stage=stage, columns=columns)) as copy:
        for piece in pieces:
            await copy.write(piece)
    await connection.execute(_SQL["store"], {"generation_id": generation_id})


class ColumnWriter:
    """Moves vectors that wait into the columns they are for, and empties columns, until `stop()`."""

    def __init__(self, database: Database, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Until `stop()`."""
        while not self._stopping.is_set():
            if not await patiently(self.settle_some):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._poll_seconds)

    async def settle_due(self) -> None:
        """All that can be done now, unless stopped; what a lock or a constraint holds back is left to a later try."""
        while not self._stopping.is_set() and await patiently(self.settle_some) is not None:
            pass

    async def settle_some(self) -> int | None:
        """One column's rows, some of them; how many are as they ought to be now. None: nothing is due."""
        row = await self._database.fetch_one(_SQL["settle"], {"limit": ROWS_AT_ONCE})
        if row is None or row[0] is None:
            return None
        await self._database.fetch(_SQL["tell"])
        return int(row[0])
