"""Rows in bulk: COPY into a table, also where row-level security binds the one who copies. Owns the way there; must not
know what is copied.

PostgreSQL refuses COPY FROM into a table whose security policies hold for the session's role: that is every table of
ours (FORCE) for an owner who is no superuser. There the rows go through a table of the session's own, which is filled
by COPY and emptied at the end of the transaction; it costs about 40% of the speed (docs/decisions).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncCopy, sql

from embedmill.database.pool import Connection

_COPY = sql.SQL("COPY {table} ({columns}) FROM STDIN {options}")
_STAGE = sql.SQL(
    "CREATE TEMP TABLE IF NOT EXISTS {stage} ON COMMIT DELETE ROWS AS SELECT {columns} FROM {table} WITH NO DATA"
)
_MOVE = sql.SQL("INSERT INTO {table} ({columns}) SELECT {columns} FROM {stage}")
_BINARY = sql.SQL("(FORMAT binary)")


@asynccontextmanager
async def copying(
    connection: Connection, table: sql.Identifier, columns: Sequence[str], *, binary: bool = False
) -> AsyncIterator[AsyncCopy]:
    """COPY into these columns of a table, within the transaction of the connection. Raises what COPY and INSERT raise:
    with the block's end at the latest."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    options = _BINARY if binary else sql.SQL("")
    if not _is_bound(connection):
        async with connection.cursor().copy(
            _COPY.format(table=table, columns=names, options=options)
        ) as copy:
            yield copy
        return
    stage = sql.Identifier("pg_temp", "copied_" + table.as_string(None).replace('"', "").rpartition(".")[2])
    parts: dict[str, Any] = {"table": table, "columns": names, "stage": stage}
    await connection.execute(_STAGE.format(**parts))
    async with connection.cursor().copy(_COPY.format(table=stage, columns=names, options=options)) as copy:
        yield copy
    await connection.execute(_MOVE.format(**parts))


def _is_bound(connection: Connection) -> bool:
    """Whether policies hold for this session: for all our tables, or for none."""
    return bool(getattr(connection, "is_bound_by_policies", False))
