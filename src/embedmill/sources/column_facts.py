"""What a person wants to know of the column that a table's vectors stand in: how many rows have one, and whether there
is an index for searches. Only looks, and never for long."""

from __future__ import annotations

import msgspec
import psycopg

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.sources.tables import TableSource

_SQL = load_queries("embedmill.sources", "column_facts.sql")
_MOST_ROWS = 10_000
_LONGEST_MS = 2_000


class ColumnFacts(msgspec.Struct, frozen=True):
    """`rows_with_vector`: counted up to 10,000 (`rows_are_more`: there are more), None where even that takes too long.
    `index_statement`: what makes the index that the column lacks, None where it has one or cannot have one."""

    column: str
    rows_with_vector: int | None
    rows_are_more: bool
    index_statement: str | None

    @property
    def counted(self) -> str:
        """For people."""
        if self.rows_with_vector is None:
            return "not counted: the table is large, or busy"
        return f"more than {_MOST_ROWS:,}" if self.rows_are_more else f"{self.rows_with_vector:,}"


async def column_facts(database: Database, source: TableSource) -> ColumnFacts | None:
    """Of the live generation's column; None where there is none, or it cannot be read now: the source tells why."""
    if source.target_column is None or not source.exists:
        return None
    asked = {"id": source.id, "limit": _MOST_ROWS + 1}
    rows = await database.fetch(_SQL["index_statement"], asked)
    if not rows:
        return None
    counted: int | None = None
    try:
        async with database.transaction() as connection:
            await connection.execute(_SQL["briefly"], {"milliseconds": str(_LONGEST_MS)})
            cursor = await connection.execute(_SQL["count_rows_with_vector"], asked)
            ((counted,),) = await cursor.fetchall()
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
        pass  # not counted, and said so
    except psycopg.errors.InsufficientPrivilege:
        return None
    are_more = counted is not None and counted > _MOST_ROWS
    return ColumnFacts(source.target_column, _MOST_ROWS if are_more else counted, are_more, rows[0][0])
