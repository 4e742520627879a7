"""Writes what is embedded without the queue: vectors, ledger row and counters in one transaction, fenced by the
document's row and version. Owns that transaction; must not call a provider.

Order of locks, as everywhere: document, vectors and chunks, jobs, counters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec
import psycopg

from embedmill.core.batching import Unit
from embedmill.core.hashing import text_hash
from embedmill.core.pricing import cost_usd
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.embed.books import Books
from embedmill.embed.columns import store_vectors
from embedmill.embed.results import Call
from embedmill.embed.vector_copy import encode_vectors
from embedmill.ports import Vectors

_SQL = load_queries("embedmill.embed", "embed.sql")
_DIRECT = load_queries("embedmill.embed", "direct.sql")


class DirectWork(msgspec.Struct):
    """A document that is being embedded: the content we began with, and whether it is still wanted."""

    document_id: int
    version: int
    job_id: UUID
    is_current: bool = True
    is_wanted: bool = True

    @property
    def goes_on(self) -> bool:
        return self.is_current and self.is_wanted


class DirectPersistence:
    """Commits what a DirectEmbedder brings home."""

    def __init__(self, database: Database, pipeline: Pipeline) -> None:
        self._database = database
        self._pipeline = pipeline
        self._generation = pipeline.generation
        self._books = Books(pipeline)
        self._vectors = vectors_table(self._generation.id)

    async def copy_vectors(
        self, pairs: list[tuple[int, int]], generation_id: int, work: DirectWork
    ) -> set[int]:
        """Copy vectors of equal texts, (chunk, donor) each; returns the chunks that were served."""
        async with self._database.transaction() as connection:
            if not await self._is_current(connection, work):
                return set()
            cursor = await connection.execute(
                _SQL["donate_vectors"],
                {
                    "generation_id": self._generation.id,
                    "donor_generation_id": generation_id,
                    "chunk_ids": [chunk for chunk, _ in pairs],
                    "donors": [donor for _, donor in pairs],
                },
            )
            copied = {row[0] for row in await cursor.fetchall()}
            await self._count(connection, work, embedded=copied, reused=len(copied))
        return copied

    async def write_response(
        self, call: Call, units: Sequence[Unit], vectors: Vectors, work: DirectWork
    ) -> int:
        """Commit a response; returns how many vectors were written. May be repeated: the ledger's row tells."""
        skip: set[int] = set()
        while True:
            try:
                return await self._write_new(call, units, vectors, work, skip)
            except psycopg.errors.UniqueViolation:
                # A worker that had the document's items still wrote some: theirs stand.
                rows = await self._database.fetch(
                    _SQL["standing_vectors"].format(vectors=self._vectors),
                    {"chunk_ids": [target.chunk_id for unit in units for target in unit.targets]},
                )
                found = {row[0] for row in rows}
                if found <= skip:
                    raise
                skip |= found

    async def _write_new(
        self, call: Call, units: Sequence[Unit], vectors: Vectors, work: DirectWork, skip: set[int]
    ) -> int:
        prefix = self._generation.spec.document_prefix
        async with self._database.transaction() as connection:
            is_current = await self._is_current(connection, work)
            cursor = await connection.execute(
                _SQL["is_recorded"], {"call_id": call.id, "generation_id": self._generation.id}
            )
            recorded = await cursor.fetchone()
            if recorded and recorded[0]:
                return 0  # committed before, only the answer to COMMIT was lost
            ours = [
                (target.chunk_id, text_hash(prefix + unit.text) if prefix else unit.content_hash, row)
                for row, unit in enumerate(units)
                for target in unit.targets
                if is_current and target.chunk_id not in skip
            ]
            if ours:
                chunk_ids, hashes, rows = ([o[0] for o in ours], [o[1] for o in ours], [o[2] for o in ours])
                document_ids = [work.document_id] * len(chunk_ids)
                pieces = encode_vectors(
                    chunk_ids, document_ids, hashes, vectors, rows, self._generation.storage
                )
                into_columns = bool(recorded and recorded[1])
                await store_vectors(connection, self._generation.id, pieces, into_columns=into_columns)
            await self._books.record_usage(connection, call, {work.job_id})
            await self._count(
                connection, work, embedded=[chunk_id for chunk_id, _, _ in ours], tokens=call.tokens
            )
            await self._books.settle_budget(connection, call)
        return len(ours)

    async def bury_chunks(self, unit: Unit, message: str, work: DirectWork) -> None:
        """Dead-letter every chunk of a text that the provider refuses."""
        chunk_ids = [target.chunk_id for target in unit.targets]
        async with self._database.transaction() as connection:
            if not await self._is_current(connection, work):
                return
            cursor = await connection.execute(
                _SQL["bury_chunks"],
                {
                    "generation_id": self._generation.id,
                    "item_ids": [None] * len(chunk_ids),
                    "chunk_ids": chunk_ids,
                    "reason": "input_rejected",
                    "error_message": message,
                },
            )
            await self._count(connection, work, refused=[row[0] for row in await cursor.fetchall()])

    async def _is_current(self, connection: Connection, work: DirectWork) -> bool:
        """Whether the document still has the content that we embed; its row is ours from here on."""
        cursor = await connection.execute(_DIRECT["lock_document"], {"document_id": work.document_id})
        row = await cursor.fetchone()
        work.is_current = row is not None and row[0] == work.version
        return work.is_current

    async def _count(
        self,
        connection: Connection,
        work: DirectWork,
        *,
        embedded: Collection[int] = (),
        reused: int = 0,
        refused: Collection[int] = (),
        tokens: int = 0,
    ) -> None:
        """The job's and the pipeline's counters; the job's row says whether it was cancelled."""
        cost = cost_usd(tokens, self._pipeline.price_per_million_tokens)
        cursor = await connection.execute(
            _DIRECT["advance_job"],
            {
                "job_id": work.job_id,
                "embedded": len(embedded),
                "reused": reused,
                "failed": len(refused),
                "tokens": tokens,
                "cost": cost,
            },
        )
        row = await cursor.fetchone()
        work.is_wanted = bool(row and row[0])
        await connection.execute(
            _SQL["count_chunks"],
            {"generation_id": self._generation.id, "embedded": list(embedded), "refused": list(refused)},
        )

    async def record_call(self, call: Call, work: DirectWork) -> None:
        """A call that brought no vectors: the ledger says so, and what it may have cost."""
        async with self._database.transaction() as connection:
            if await self._books.record_usage(connection, call, {work.job_id}):
                await self._books.settle_budget(connection, call)

    async def end_job(self, document_id: int, job_id: UUID, message: str | None) -> None:
        """Completed if nothing is lacking, failed with the message else; a cancelled job stays so."""
        async with self._database.transaction() as connection:
            await connection.execute(_DIRECT["lock_document"], {"document_id": document_id})
            await connection.execute(
                _DIRECT["end_job"], {"document_id": document_id, "job_id": job_id, "message": message}
            )
