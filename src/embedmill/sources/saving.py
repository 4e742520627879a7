"""Commits what was read of a source's rows: documents, texts, chunks, queue items and counts in one transaction.
Owns what becomes of a row that is new, changed, gone or not to be read; must not read rows or cut text.

The order of locks is record_sources, documents, items, chunks, counters."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import msgspec

from embedmill.database.chunk_rows import DocumentChunks, replace_chunks
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import DocumentError
from embedmill.ports import CutDocument
from embedmill.sources.catalog import RecordSource
from embedmill.sources.rows import Row
from embedmill.sources.target_column import TargetColumn

_SQL = load_queries("embedmill.sources", "saving.sql")
LEASE_SECONDS = 60.0


class Standing(msgspec.Struct, frozen=True):
    """What is known of a row: its document. Without a `content_hash` it was never read."""

    id: int
    version: int
    content_hash: bytes | None
    error_reason: str | None
    metadata: str


class ReadRow(msgspec.Struct, frozen=True):
    """A row and what was made of it: its chunks by the live plan, or why there are none. `is_unchanged`: its document
    has this text already, and nothing was cut."""

    row: Row
    content_hash: bytes
    cut: CutDocument | None = None
    refusal: DocumentError | None = None
    is_unchanged: bool = False


class Reading(msgspec.Struct, frozen=True):
    """One batch: what was looked at, what stood then, what was found. `change_ids` are the change rows that told of
    it. Of what is `gone`, `unwanted` are rows that are there and do not satisfy the condition."""

    rows: Sequence[ReadRow]
    standing: Mapping[str, Standing]
    gone: Collection[str]
    change_ids: Sequence[int] = ()
    unwanted: Collection[str] = ()


class Saved(msgspec.Struct, frozen=True):
    """What came of a batch."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    refused: int = 0
    enqueued_chunks: int = 0
    adopted: int = 0

    def __add__(self, other: Saved) -> Saved:
        return Saved(
            self.added + other.added,
            self.changed + other.changed,
            self.deleted + other.deleted,
            self.refused + other.refused,
            self.enqueued_chunks + other.enqueued_chunks,
            self.adopted + other.adopted,
        )


class OutdatedError(Exception):
    """Documents, or the pipeline's live generation, changed since they were looked at: read the batch again."""


def content_hash(content: str) -> bytes:
    """By which a row's text is known again; what cannot be encoded has no other."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()


class RecordSaving:
    """Writes the documents of one source."""

    def __init__(self, database: Database, source: RecordSource, pipeline: Pipeline) -> None:
        self._database = database
        self._source = source
        self._pipeline = pipeline
        self._column = TargetColumn(source, pipeline)

    async def standing(self, keys: Sequence[str]) -> dict[str, Standing]:
        """The documents of these rows, as far as there are any."""
        rows = await self._database.fetch(
            _SQL["standing_documents"],
            {"pipeline_id": self._pipeline.id, "source_type": self._source.name, "keys": list(keys)},
        )
        return {row[0]: Standing(row[1], row[2], row[3] and bytes(row[3]), row[4], row[5]) for row in rows}

    async def hold(self, connection: Connection, reader_token: int | None) -> bool:
        """Hold the source to the end of the transaction; False where the lease is over."""
        cursor = await connection.execute(
            _SQL["hold_source"],
            {
                "record_source_id": self._source.id,
                "reader_token": reader_token,
                "lease_seconds": LEASE_SECONDS,
            },
        )
        row = await cursor.fetchone()
        return bool(row and row[0])

    async def save(
        self,
        connection: Connection,
        reading: Reading,
        *,
        priority: str,
        usage_type: str = "internal_ingestion",
        batch_id: UUID | None = None,
        adopts: bool = False,
    ) -> Saved:
        """Write a batch, in a transaction that holds the source; its items stand under this usage type and batch.
        `adopts`: of rows that are new to us, vectors that stand in the source's column are believed, where it was added
        so. Raises OutdatedError where documents changed since `standing` was read."""
        if reading.change_ids:
            await connection.execute(
                _SQL["take_changes"],
                {"record_source_id": self._source.id, "change_ids": list(reading.change_ids)},
            )
        await self._lock(connection, reading.standing)
        gone = [reading.standing[key].id for key in reading.gone if key in reading.standing]
        if gone:
            await connection.execute(
                _SQL["delete_records"], {"document_ids": gone, "message": "the source's row is gone"}
            )
        new = [read for read in reading.rows if read.row.key not in reading.standing]
        known = [read for read in reading.rows if read.row.key in reading.standing]
        changed = [read for read in known if not read.is_unchanged]
        ids = {read.row.key: reading.standing[read.row.key].id for read in known}
        ids |= await self._add(connection, new)
        await self._change(connection, changed, ids)
        await self._change_metadata(
            connection, [read for read in known if read.is_unchanged], reading.standing
        )
        await self._save_texts(connection, [*new, *changed], ids)
        await self._replace_chunks(connection, new, changed, ids)
        await self._bury(connection, [*new, *changed], ids)
        await self._end_unreadable(connection, reading.rows, ids)
        await self._count(connection, reading, added=len(new))
        unembedded = [key for key in reading.unwanted if key in reading.standing and key in reading.gone]
        unembedded += [read.row.key for read in changed if read.refusal is not None]
        await self._column.empty(connection, unembedded)
        adopted = 0
        if adopts:
            adopted = await self._column.adopt(connection, [ids[read.row.key] for read in new if read.cut])
        readable = sorted(ids[read.row.key] for read in reading.rows if read.refusal is None)
        chunks = await self._enqueue(connection, readable, priority, usage_type, batch_id)
        refused = sum(read.refusal is not None for read in reading.rows)
        return Saved(len(new), len(changed), len(gone), refused, chunks, adopted)

    async def _count(self, connection: Connection, reading: Reading, *, added: int) -> None:
        """How many rows have been read: one whose document stood there unread (a shard) counts from now on."""
        read_first = {read.row.key for read in reading.rows if not read.is_unchanged}
        for key, known in reading.standing.items():
            was_read = known.content_hash is not None
            if key in reading.gone:
                added -= was_read
            elif key in read_first and not was_read:
                added += 1
        if added:
            await connection.execute(
                _SQL["count_documents"], {"added": added, "record_source_id": self._source.id}
            )

    async def _end_unreadable(
        self, connection: Connection, rows: Sequence[ReadRow], ids: Mapping[str, int]
    ) -> None:
        """What waits for a row that cannot be read has failed."""
        refused = [(ids[read.row.key], str(read.refusal)) for read in rows if read.refusal is not None]
        if refused:
            await connection.execute(
                _SQL["end_unreadable_items"],
                {
                    "document_ids": [document_id for document_id, _ in refused],
                    "messages": [message for _, message in refused],
                },
            )

    async def _lock(self, connection: Connection, standing: Mapping[str, Standing]) -> None:
        if not standing:
            return
        versions = {known.id: known.version for known in standing.values()}
        cursor = await connection.execute(_SQL["lock_documents"], {"document_ids": list(versions)})
        if dict(await cursor.fetchall()) != versions:
            raise OutdatedError

    async def _add(self, connection: Connection, rows: Sequence[ReadRow]) -> dict[str, int]:
        if not rows:
            return {}
        # In the order in which the API adds them too: two that add the same keys wait and do not deadlock.
        rows = sorted(rows, key=lambda read: read.row.key)
        cursor = await connection.execute(
            _SQL["add_documents"],
            {
                "tenant_id": self._source.tenant_id,
                "pipeline_id": self._pipeline.id,
                "record_source_id": self._source.id,
                "source_type": self._source.name,
                "keys": [read.row.key for read in rows],
                "names": [f"{self._source.name} {read.row.key}" for read in rows],
                **_document_columns(rows),
            },
        )
        ids: dict[str, int] = dict(await cursor.fetchall())
        if len(ids) < len(rows):
            raise OutdatedError
        return ids

    async def _change(self, connection: Connection, rows: Sequence[ReadRow], ids: Mapping[str, int]) -> None:
        if not rows:
            return
        document_ids = [ids[read.row.key] for read in rows]
        await connection.execute(
            _SQL["change_documents"], {"document_ids": document_ids, **_document_columns(rows)}
        )
        await connection.execute(_SQL["reclaim_items"], {"document_ids": document_ids})

    async def _change_metadata(
        self, connection: Connection, rows: Sequence[ReadRow], standing: Mapping[str, Standing]
    ) -> None:
        changed = [
            # Both as PostgreSQL writes jsonb.
            read.row
            for read in rows
            if read.row.metadata != standing[read.row.key].metadata
        ]
        if changed:
            await connection.execute(
                _SQL["change_metadata"],
                {
                    "document_ids": [standing[row.key].id for row in changed],
                    "metadata": [row.metadata for row in changed],
                },
            )

    async def _save_texts(
        self, connection: Connection, rows: Sequence[ReadRow], ids: Mapping[str, int]
    ) -> None:
        with_text = [(ids[read.row.key], read.cut.document.text) for read in rows if read.cut]
        if with_text:
            await connection.execute(
                _SQL["save_texts"],
                {
                    "tenant_id": self._source.tenant_id,
                    "document_ids": [document_id for document_id, _ in with_text],
                    "texts": [text for _, text in with_text],
                },
            )
        without = [ids[read.row.key] for read in rows if not read.cut]
        if without:
            await connection.execute(_SQL["delete_texts"], {"document_ids": without})

    async def _replace_chunks(
        self,
        connection: Connection,
        new: Sequence[ReadRow],
        changed: Sequence[ReadRow],
        ids: Mapping[str, int],
    ) -> None:
        chunk_set = self._pipeline.generation.chunk_set
        documents = [
            DocumentChunks(ids[read.row.key], chunk_set, read.cut.chunks if read.cut else (), is_new=is_new)
            for rows, is_new in ((new, True), (changed, False))
            for read in rows
        ]
        if not documents:
            return
        await replace_chunks(connection, self._pipeline, documents, record_source_id=self._source.id)
        cursor = await connection.execute(
            _SQL["note_recut"],
            {"document_ids": [document.document_id for document in documents], "chunk_set": chunk_set},
        )
        row = await cursor.fetchone()
        if not (row and row[0]):
            raise OutdatedError

    async def _bury(self, connection: Connection, rows: Sequence[ReadRow], ids: Mapping[str, int]) -> None:
        if not rows:
            return
        refused = [(ids[read.row.key], read.refusal) for read in rows if read.refusal is not None]
        await connection.execute(
            _SQL["bury_documents"],
            {
                "tenant_id": self._source.tenant_id,
                "generation_id": self._pipeline.generation.id,
                "read_ids": [ids[read.row.key] for read in rows],
                "document_ids": [document_id for document_id, _ in refused],
                "reasons": [refusal.reason for _, refusal in refused],
                "messages": [str(refusal) for _, refusal in refused],
            },
        )

    async def _enqueue(
        self,
        connection: Connection,
        document_ids: Sequence[int],
        priority: str,
        usage_type: str,
        batch_id: UUID | None,
    ) -> int:
        if not document_ids:
            return 0
        cursor = await connection.execute(
            _SQL["enqueue_documents"],
            {
                "document_ids": list(document_ids),
                "batch_id": batch_id,
                "priority": priority,
                "usage_type": usage_type,
            },
        )
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


def _document_columns(rows: Sequence[ReadRow]) -> dict[str, list[object]]:
    """What documents say of their rows' content."""
    return {
        "sizes": [len(read.row.content.encode("utf-8", "surrogatepass")) for read in rows],
        "hashes": [read.content_hash for read in rows],
        "chunk_counts": [len(read.cut.chunks) if read.cut else 0 for read in rows],
        "error_reasons": [read.refusal and read.refusal.reason for read in rows],
        "error_messages": [read.refusal and str(read.refusal) for read in rows],
        "metadata": [read.row.metadata for read in rows],
    }
