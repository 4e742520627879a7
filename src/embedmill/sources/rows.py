"""Reads the rows of a source: by their keys, or one after another in the order of the key. Owns the SQL over users'
tables that is for reading; must not write, and must not know what becomes of a row.

A row's key as text is what it is known by: of one column its text, of several a JSON array of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import psycopg
from psycopg import sql

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import DocumentError
from embedmill.sources.catalog import RecordSource, TableShape
from embedmill.sources.template import Template

_SQL = load_queries("embedmill.sources", "rows.sql")

# What one load brings at most, in bytes of text: rows beyond it are left for the next one.
LOAD_BYTES = 16 * 2**20
# Of a larger row the text is not even fetched.
MAX_ROW_BYTES = 64 * 2**20
# Classes of errors that one row brings about: what its values make of a condition, what a person's function says of it.
_OF_A_ROW = frozenset({"21", "22", "23", "2F", "38", "39", "P0"})


class Row(msgspec.Struct, frozen=True):
    """The present state of a row: its text, or why there is none (`refusal`). `version` is another for each state.
    `is_wanted`: it satisfies the source's condition."""

    key: str
    version: str
    content: str
    metadata: str
    """JSON."""
    is_wanted: bool = True
    refusal: DocumentError | None = None


class Loaded(msgspec.Struct, frozen=True):
    """Those of the wanted rows that exist, in no order; `left` are keys for which there was no room any more."""

    rows: list[Row]
    left: list[str]


class WalkedKey(msgspec.Struct, frozen=True):
    """A row that a walk has come to: its key, and the values of its key columns as texts."""

    key: str
    columns: tuple[str, ...]


class Rows(Protocol):
    """The rows of one source."""

    async def load(self, keys: Sequence[str]) -> Loaded:
        """The rows of these keys: texts of at most LOAD_BYTES, but at least one row."""
        ...

    async def wanted(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose rows exist and satisfy the condition, or may do so."""
        ...

    async def versions(self, connection: Connection, keys: Sequence[str]) -> dict[str, str]:
        """The present versions of those that exist, as this transaction sees them."""
        ...

    async def walk(self, after: Sequence[str] | None, limit: int) -> list[WalkedKey]:
        """The next keys in order; None begins at the first."""
        ...


def rows_of(database: Database, source: RecordSource) -> Rows:
    return ShardRows(database, source) if source.table is None else TableRows(database, source, source.table)


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
        return [_refused(key, "condition_failed", message, version=versions[key])] if versions else []

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


class ShardRows:
    """What was pushed to a feed, as it stands in embedmill.shards."""

    def __init__(self, database: Database, source: RecordSource) -> None:
        self._database = database
        self._source_id = source.id
        self._template = None if source.template is None else Template(source.template)

    async def load(self, keys: Sequence[str]) -> Loaded:
        found = await self._database.fetch(
            _SQL["shard_rows"],
            {"record_source_id": self._source_id, "keys": list(keys), "load_bytes": LOAD_BYTES},
        )
        return Loaded(
            [self._row(*row) for *row, is_loaded in found if is_loaded],
            [key for key, *_, is_loaded in found if not is_loaded],
        )

    async def wanted(self, keys: Sequence[str]) -> set[str]:
        async with self._database.connection() as connection:
            return set(await self.versions(connection, keys))

    def _row(
        self,
        key: str,
        content: str | None,
        fields: str | None,
        metadata: str,
        version: str,
        reject_reason: str | None,
    ) -> Row:
        if reject_reason is not None:
            return _refused(key, "not_storable", reject_reason, version=version, metadata=metadata)
        if content is None:
            values = msgspec.json.decode(fields or "{}", type=dict[str, object])
            template = self._template or Template(
                "\n\n".join(f"${{{name}}}" for name in values) or "$content"
            )
            content = template.render({name: _text_of(value) for name, value in values.items()})
        return Row(key, version, content, metadata)

    async def versions(self, connection: Connection, keys: Sequence[str]) -> dict[str, str]:
        cursor = await connection.execute(
            _SQL["shard_versions"], {"record_source_id": self._source_id, "keys": list(keys)}
        )
        return dict(await cursor.fetchall())

    async def walk(self, after: Sequence[str] | None, limit: int) -> list[WalkedKey]:
        found = await self._database.fetch(
            _SQL["shard_keys"],
            {
                "record_source_id": self._source_id,
                "after": None if after is None else list(after),
                "limit": limit,
            },
        )
        return [WalkedKey(key, tuple(columns)) for key, columns in found]


def _identifier(*names: str) -> sql.Identifier:
    """Quoted, in a statement that has parameters: there a % stands for two."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def _refused(key: str, reason: str, message: str, *, version: str = "", metadata: str = "{}") -> Row:
    return Row(key, version, "", metadata, refusal=DocumentError(reason, message))


def _too_large(key: str, size: int, version: str, is_wanted: bool) -> Row:
    message = f"its text has {size:,} bytes; {MAX_ROW_BYTES:,} at most are embedded"
    refusal = DocumentError("too_large", message)
    return Row(key, version, "", "{}", is_wanted, refusal)


def _is_of_a_row(error: psycopg.Error) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in _OF_A_ROW


def _text_of(value: object) -> str:
    """A field as a person would write it: texts as they are, everything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
