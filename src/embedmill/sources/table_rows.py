"""Reads the rows of a user's table. Owns the SQL over users' tables that is for reading; must not write, and must not
know what becomes of a row."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import DocumentError
from embedmill.sources.catalog import RecordSource, TableShape
from embedmill.sources.rows import LOAD_BYTES, MAX_ROW_BYTES, Loaded, Row, WalkedKey, refused_row
from embedmill.sources.template import Template

_SQL = load_queries("embedmill.sources", "rows.sql")

# Classes of errors that one row brings about: what its values make of a condition, what a person's function says of it.
_OF_A_ROW = frozenset({"21", "22", "23", "2F", "38", "39", "P0"})


class TableRows:
    """The rows of a user's table."""

    def __init__(self, database: Database, source: RecordSource, table: TableShape) -> None:
        self._database = database
        self._template = Template(source.template or "")
        self._table = table
        self._name = _identifier(table.schema, table.table)
        self._keys = [sql.SQL("t.{}").format(_identifier(column)) for column in table.key_columns]

    async def load(self, keys: Sequence[str]) -> Loaded:
        if not keys:
            return Loaded([], [])
        try:
            return await self._load(keys)
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise
            if len(keys) == 1:
                return Loaded(await self._load_unjudged(keys[0], error), [])
        # The condition fails for one of them (a division by zero, a cast): its neighbours do not pay for it.
        middle = len(keys) // 2
        first = await self.load(keys[:middle])
        if first.left:
            return Loaded(first.rows, [*first.left, *keys[middle:]])
        second = await self.load(keys[middle:])
        return Loaded([*first.rows, *second.rows], second.left)

    async def _load(self, keys: Sequence[str]) -> Loaded:
        fields = self._template.fields
        texts = [sql.SQL("t.{}::text").format(_identifier(field)) for field in fields]
        metadata = [sql.SQL("t.{}::text").format(_identifier(name)) for name in self._table.metadata_columns]
        statement = _SQL["table_rows"].format(
            texts=sql.SQL(", ").join(texts),
            bytes=sql.SQL(" + ").join(
                sql.SQL("coalesce(octet_length({}), 0)::bigint").format(text) for text in (*texts, *metadata)
            ),
            metadata=self._metadata(),
            has_room=_SQL["has_room"],
            condition=self._condition(),
            table=self._name,
            key_match=self._key_match(),
        )
        limits = {"load_bytes": LOAD_BYTES, "max_row_bytes": MAX_ROW_BYTES}
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["settings"])
            cursor = await connection.execute(statement, {"keys": list(keys), **limits})
            found = await cursor.fetchall()
        rows: list[Row] = []
        left: list[str] = []
        for key, values, described, version, is_wanted, size in found:
            if values is not None:
                content = self._template.render(dict(zip(fields, values, strict=True)))
                rows.append(Row(key, version, content, described, is_wanted))
            elif size > MAX_ROW_BYTES:
                rows.append(_too_large(key, size, version, is_wanted))
            else:
                left.append(key)
        return Loaded(rows, left)

    async def _load_unjudged(self, key: str, error: psycopg.Error) -> list[Row]:
        """The row on which the condition fails; none where it is the key that this table can have no row of."""
        try:
            async with self._database.transaction() as connection:
                versions = await self.versions(connection, [key])
        except psycopg.DataError:
            return []
        reason = error.diag.message_primary or type(error).__name__
        message = f"the source's condition fails on this row: {reason}"
        return [refused_row(key, "condition_failed", message, version=versions[key])] if versions else []

    async def wanted(self, keys: Sequence[str]) -> set[str]:
        if not keys:
            return set()
        statement = _SQL["table_wanted"].format(
            condition=self._condition(), table=self._name, key_match=self._key_match()
        )
        try:
            async with self._database.transaction() as connection:
                await connection.execute(_SQL["settings"])
                cursor = await connection.execute(statement, {"keys": list(keys)})
                return {row[0] for row in await cursor.fetchall()}
        except psycopg.Error as error:
            if not _is_of_a_row(error):
                raise
            loaded = await self.load(keys)
            return {row.key for row in loaded.rows if row.is_wanted} | set(loaded.left)

    async def versions(self, connection: Connection, keys: Sequence[str]) -> dict[str, str]:
        await connection.execute(_SQL["settings"])
        statement = _SQL["table_versions"].format(table=self._name, key_match=self._key_match())
        cursor = await connection.execute(statement, {"keys": list(keys)})
        return dict(await cursor.fetchall())

    async def walk(self, after: Sequence[str] | None, limit: int) -> list[WalkedKey]:
        beyond: sql.Composable = sql.SQL("true")
        if after is not None:
            typed = [
                sql.SQL("((%(after)s::text[])[{}])::{}").format(sql.Literal(n + 1), self._type(n))
                for n in range(len(self._keys))
            ]
            beyond = sql.SQL("({}) > ({})").format(sql.SQL(", ").join(self._keys), sql.SQL(", ").join(typed))
        statement = _SQL["table_keys"].format(
            key=self._key_text(),
            key_texts=sql.SQL("ARRAY[{}]").format(
                sql.SQL(", ").join(sql.SQL("{}::text").format(k) for k in self._keys)
            ),
            table=self._name,
            after=beyond,
            key_columns=sql.SQL(", ").join(self._keys),
        )
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["settings"])
            cursor = await connection.execute(statement, {"limit": limit, "after": after and list(after)})
            return [WalkedKey(key, tuple(columns)) for key, columns in await cursor.fetchall()]

    def _key_text(self) -> sql.Composable:
        texts = [sql.SQL("{}::text").format(key) for key in self._keys]
        if len(texts) == 1:
            return texts[0]
        return sql.SQL("jsonb_build_array({})::text").format(sql.SQL(", ").join(texts))

    def _key_match(self) -> sql.Composable:
        """A row's key is the wanted text; the text is made into the key's type, so that the key's index serves. Where
        equal keys can read differently (1.0 and 1.00), each is another key."""
        given: list[sql.Composable] = [sql.SQL("w.embedmill_key")]
        if len(self._keys) > 1:
            given = [
                sql.SQL("(w.embedmill_key::jsonb ->> {})").format(sql.Literal(n))
                for n in range(len(self._keys))
            ]
        return sql.SQL(" AND ").join(
            sql.SQL('{} = {}::{} AND {}::text COLLATE "C" = {}').format(key, text, self._type(n), key, text)
            for n, (key, text) in enumerate(zip(self._keys, given, strict=True))
        )

    def _condition(self) -> sql.Composable:
        # An operator's own expression, checked when the source was added (tables.py).
        return sql.SQL((self._table.condition or "true").replace("%", "%%"))

    def _type(self, number: int) -> sql.Composable:
        # As format_type() wrote it when the source was added.
        return sql.SQL(self._table.key_types[number].replace("%", "%%"))

    def _metadata(self) -> sql.Composable:
        if not self._table.metadata_columns:
            return sql.SQL("'{}'")
        pairs = (
            sql.SQL("{}, t.{}").format(sql.Literal(column.replace("%", "%%")), _identifier(column))
            for column in self._table.metadata_columns
        )
        return sql.SQL("jsonb_build_object({})::text").format(sql.SQL(", ").join(pairs))


def _identifier(*names: str) -> sql.Identifier:
    """Quoted, in a statement that has parameters: there a % stands for two."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def _too_large(key: str, size: int, version: str, is_wanted: bool) -> Row:
    message = f"its text has {size:,} bytes; {MAX_ROW_BYTES:,} at most are embedded"
    refusal = DocumentError("too_large", message)
    return Row(key, version, "", "{}", is_wanted, refusal)


def _is_of_a_row(error: psycopg.Error) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in _OF_A_ROW
