"""Two questions about the rows of a source that only an audit asks: which of them a walk has passed, and which lack the
vector in their own column. Owns nothing else; must not write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from psycopg import sql

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.sources.catalog import RecordSource
from embedmill.sources.rows import Rows
from embedmill.sources.shard_rows import ShardRows
from embedmill.sources.table_rows import TableRows

_SQL = load_queries("embedmill.sources", "audit.sql")


class AuditedRows(Rows, Protocol):
    """The rows of one source, as an audit looks at them."""

    async def behind(self, connection: Connection, keys: Sequence[str], cursor: Sequence[str]) -> set[str]:
        """Those of the rows that do not come after `cursor` in the order of the walk."""
        ...

    async def unfilled(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """Those of the rows whose own column for the vector is NULL; all, where there is no such column."""
        ...


def audited_rows(database: Database, source: RecordSource) -> AuditedRows:
    if source.table is None:
        return _AuditedShards(database, source)
    return _AuditedTable(database, source, source.table)


class _AuditedTable(TableRows):
    async def behind(self, connection: Connection, keys: Sequence[str], cursor: Sequence[str]) -> set[str]:
        typed = [
            sql.SQL("{}::{}").format(sql.Literal(value), self._type(n)) for n, value in enumerate(cursor)
        ]
        statement = _SQL["keys_behind"].format(
            table=self._name,
            key_match=self._key_match(),
            key_columns=sql.SQL(", ").join(self._keys),
            cursor=sql.SQL(", ").join(typed),
        )
        found = await connection.execute(statement, {"keys": list(keys)})
        return {row[0] for row in await found.fetchall()}

    async def unfilled(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        if self._table.target_column is None:
            return set(keys)
        statement = _SQL["unfilled"].format(
            table=self._name,
            key_match=self._key_match(),
            column=sql.Identifier(self._table.target_column.replace("%", "%%")),
        )
        found = await connection.execute(statement, {"keys": list(keys)})
        return {row[0] for row in await found.fetchall()}


class _AuditedShards(ShardRows):
    async def behind(self, connection: Connection, keys: Sequence[str], cursor: Sequence[str]) -> set[str]:
        found = await connection.execute(
            _SQL["shards_behind"],
            {"record_source_id": self._source_id, "keys": list(keys), "cursor": cursor[0]},
        )
        return {row[0] for row in await found.fetchall()}

    async def unfilled(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        return set(keys)
