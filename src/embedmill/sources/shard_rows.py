"""Reads what was pushed to a feed, as it stands in embedmill.shards. Must not know how it came there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.sources.catalog import RecordSource
from embedmill.sources.rows import LOAD_BYTES, Loaded, Row, WalkedKey, refused_row
from embedmill.sources.template import Template

_SQL = load_queries("embedmill.sources", "rows.sql")


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
            return refused_row(key, "not_storable", reject_reason, version=version, metadata=metadata)
        if content is None:
            values = msgspec.json.decode(fields or "{}", type=dict[str, object])
            texts = {name: _text_of(value) for name, value in values.items()}
            if self._template is None:
                content = "\n\n".join(text for text in texts.values() if text.strip())
            else:
                content = self._template.render(texts)
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


def _text_of(value: object) -> str:
    """A field as a person would write it: texts as they are, everything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
