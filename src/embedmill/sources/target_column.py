"""What a save says of the column that a table's vectors stand in, if they stand in one. Writes no vector and no row of
the user's: what is owed to the column is brought there by embed/columns.py."""

from __future__ import annotations

from collections.abc import Sequence

from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries
from embedmill.sources.catalog import RecordSource

_SQL = load_queries("embedmill.sources", "target_column.sql")


class TargetColumn:
    """The column of one source; where it has none, nothing happens."""

    def __init__(self, source: RecordSource, pipeline: Pipeline) -> None:
        self._source_id = source.id
        self._generation_id = pipeline.generation.id
        self._exists = source.table is not None and source.table.target_column is not None

    async def empty(self, connection: Connection, keys: Sequence[str]) -> None:
        """Rows that are there and have no text that is embedded any more: no vector of an older one may stand there."""
        if keys and self._exists:
            await connection.execute(
                _SQL["empty_columns"], {"record_source_id": self._source_id, "keys": list(keys)}
            )

    async def adopt(self, connection: Connection, document_ids: Sequence[int]) -> int:
        """Believe the vectors that stand there for documents that were just made, where the source was added so; how
        many."""
        if not document_ids or not self._exists:
            return 0
        cursor = await connection.execute(
            _SQL["adopt_columns"],
            {
                "record_source_id": self._source_id,
                "generation_id": self._generation_id,
                "document_ids": list(document_ids),
            },
        )
        row = await cursor.fetchone()
        return int(row[0]) if row else 0
