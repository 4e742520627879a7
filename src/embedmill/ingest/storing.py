"""Commits what was parsed: document, text, chunks, job and queue items in one transaction. Owns the replacing
of a document's chunks; must not read files. The order of locks is document, items, chunks, jobs, counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from embedmill.core.documents import Chunk, ParsedDocument
from embedmill.database.chunk_rows import DocumentChunks, replace_chunks
from embedmill.database.pipelines import Pipeline, pipeline_by_id
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import EmbedmillError

_SQL = load_queries("embedmill.ingest", "ingest.sql")
_STAGING = load_queries("embedmill.ingest", "staging.sql")


class SourceContent(msgspec.Struct, frozen=True):
    """One state of a source, as it was read: what makes it this document and this version."""

    source_type: str
    source_id: str
    name: str
    size_bytes: int | None
    content_hash: bytes | None
    metadata: dict[str, Any] = {}
    """What a person says of it; stands over what the parser found under the same name."""


class Launched(msgspec.Struct, frozen=True):
    """What was enqueued for a document: the rest has its vectors already. `direct_reason`: why nothing was, though
    its job goes on; whoever launched it must see to its chunks."""

    job_id: UUID
    document_id: int
    chunks: int
    enqueued_chunks: int
    enqueued_tokens: int
    direct_reason: str | None = None


class PipelineSwitchedError(EmbedmillError):
    """The live plan of chunks is another one than that by which a document was cut: cut it again (`refresh`)."""


class ParseLease(msgspec.Struct, frozen=True):
    """A job that was claimed for parsing, and the proof of it."""

    job_id: UUID
    lease_token: int


class Storing:
    """Writes documents of one pipeline, on behalf of one run (`batch_id`), or of jobs that have their own."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        *,
        batch_id: UUID | None,
        priority: str = "medium",
        usage_type: str = "internal_ingestion",
        on_launched: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_launched` is told when something was enqueued, and committed."""
        self._database = database
        self.pipeline = pipeline
        self._batch_id = batch_id
        self._priority = priority
        self._usage_type = usage_type
        self._on_launched = on_launched

    async def refresh(self) -> None:
        """Take up which generation is the live one, and by which plan it is cut."""
        self.pipeline = await pipeline_by_id(self._database, self.pipeline.id)

    async def save(
        self, content: SourceContent, document: ParsedDocument, chunks: Sequence[Chunk]
    ) -> Launched:
        """Make this the document's content and launch what lacks a vector. Unchanged chunks keep theirs, and
        content that stands already is only launched: what works on it is not disturbed. Raises
        PipelineSwitchedError where it was cut by a plan that is no longer the live one."""
        async with self._database.transaction() as connection:
            standing = await self._find_same(connection, content)
            if standing is None:
                standing = await self._replace_content(connection, content, document, chunks)
            launched = await self._launch(connection, *standing, len(chunks))
        return self._announce(launched)

    async def save_parsed(
        self, lease: ParseLease, content: SourceContent, document: ParsedDocument, chunks: Sequence[Chunk]
    ) -> Launched | None:
        """Make this the content of a job's document: its preview is ready, and where it is to be launched by itself
        it is. None where the lease is over: the job was cancelled, or somebody else parses it. Raises
        PipelineSwitchedError as `save`."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(_STAGING["hold_parsing"], msgspec.structs.asdict(lease))
            row = await cursor.fetchone()
            if not (row and row[0]):
                return None
            document_id, version = await self._save_document(connection, content, document, len(chunks))
            await connection.execute(
                _STAGING["supersede"], {"document_id": document_id, "job_id": lease.job_id}
            )
            await self._save_text(connection, document_id, document)
            await self._replace_chunks(connection, document_id, document, chunks, is_new=version == 1)
            cursor = await connection.execute(
                _STAGING["end_parsing"],
                {
                    "job_id": lease.job_id,
                    "total_chunks": len(chunks),
                    "total_tokens": sum(chunk.tokens for chunk in chunks),
                    "cost_usd": None if self.pipeline.price_per_million_tokens is None else 0,
                },
            )
            row = await cursor.fetchone()
            assert row is not None  # noqa: S101 - the job of a lease stands as long as its row of the parse queue
            if not row[0]:
                return Launched(lease.job_id, document_id, len(chunks), 0, 0)
            launched = await self._launch(
                connection, document_id, lease.job_id, len(chunks), batch_id=row[1], priority=row[2]
            )
            if launched.direct_reason is not None:
                # Whoever takes it up again finds it launched, and embeds it without the queue.
                await connection.execute(_STAGING["dispatch_job"], {"job_id": lease.job_id})
        return self._announce(launched)

    async def save_failure(self, content: SourceContent, reason: str, message: str) -> None:
        """The source cannot be read as text: say so on its document, and let go of its older content."""
        async with self._database.transaction() as connection:
            document_id, version = await self._save_document(
                connection, content, None, 0, error_reason=reason, error_message=message
            )
            if version > 1:
                await connection.execute(_SQL["cancel_document_items"], {"document_id": document_id})
                await connection.execute(_SQL["delete_text"], {"document_id": document_id})
                await connection.execute(_SQL["delete_all_chunks"], {"document_id": document_id})
            await self._create_job(
                connection, document_id, [], status="failed", error_stage="parsing", error_message=message
            )

    async def relaunch(self, document_id: int, job_id: UUID) -> Launched:
        """Go on with a document whose job did not end well: only what lacks a vector is enqueued.

        Where newer content was saved since `job_id` was looked up, its job goes on instead; where the document
        was deleted, nothing does.
        """
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["lock_document"], {"document_id": document_id})
            cursor = await connection.execute(_SQL["newest_job"], {"document_id": document_id})
            newest = await cursor.fetchone()
            if newest is None:
                return Launched(job_id, document_id, 0, 0, 0)
            launched = await self._launch(connection, document_id, newest[0], 0)
        return self._announce(launched)

    async def delete(self, document_id: int) -> None:
        """Remove a document with all that was made of it."""
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["lock_document"], {"document_id": document_id})
            await connection.execute(_SQL["cancel_document_items"], {"document_id": document_id})
            await connection.execute(_SQL["delete_document"], {"document_id": document_id})

    def _announce(self, launched: Launched) -> Launched:
        if launched.enqueued_chunks:
            self._on_launched()
        return launched

    async def _replace_content(
        self,
        connection: Connection,
        content: SourceContent,
        document: ParsedDocument,
        chunks: Sequence[Chunk],
    ) -> tuple[int, UUID]:
        """The document, and the job of its new content."""
        document_id, version = await self._save_document(connection, content, document, len(chunks))
        if version > 1:
            await connection.execute(_SQL["cancel_document_items"], {"document_id": document_id})
        await self._save_text(connection, document_id, document)
        await self._replace_chunks(connection, document_id, document, chunks, is_new=version == 1)
        return document_id, await self._create_job(connection, document_id, chunks)

    async def _find_same(self, connection: Connection, content: SourceContent) -> tuple[int, UUID] | None:
        cursor = await connection.execute(
            _SQL["same_document"],
            {
                "pipeline_id": self.pipeline.id,
                "source_type": content.source_type,
                "source_id": content.source_id,
                "content_hash": content.content_hash,
            },
        )
        row = await cursor.fetchone()
        return None if row is None or row[1] is None else (row[0], row[1])

    async def _save_document(
        self,
        connection: Connection,
        content: SourceContent,
        document: ParsedDocument | None,
        chunk_count: int,
        *,
        error_reason: str | None = None,
        error_message: str | None = None,
    ) -> tuple[int, int]:
        cursor = await connection.execute(
            _SQL["save_document"],
            {
                "source_type": content.source_type,
                "source_id": content.source_id,
                "name": content.name,
                "size_bytes": content.size_bytes,
                "content_hash": content.content_hash,
                "tenant_id": self.pipeline.tenant_id,
                "pipeline_id": self.pipeline.id,
                "title": document.title if document else None,
                "media_type": document.media_type if document else None,
                "metadata": msgspec.json.encode(
                    {**(document.metadata if document else {}), **content.metadata}
                ).decode(),
                "chunk_count": chunk_count,
                "error_reason": error_reason,
                "error_message": error_message,
            },
        )
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101 - RETURNING of an upsert without WHERE gives its row
        return row[0], row[1]

    async def _save_text(self, connection: Connection, document_id: int, document: ParsedDocument) -> None:
        await connection.execute(
            _SQL["save_text"],
            {
                "document_id": document_id,
                "tenant_id": self.pipeline.tenant_id,
                "text": document.text,
                "is_markdown": document.is_markdown,
                "places": msgspec.json.encode(document.places).decode(),
            },
        )

    async def _replace_chunks(
        self,
        connection: Connection,
        document_id: int,
        document: ParsedDocument,
        chunks: Sequence[Chunk],
        *,
        is_new: bool,
    ) -> None:
        """Those of the live plan; a generation that has another one is cut from the text, by its builder."""
        chunk_set = self.pipeline.generation.chunk_set
        await replace_chunks(
            connection,
            self.pipeline,
            [DocumentChunks(document_id, chunk_set, chunks, document.places, is_new=is_new)],
        )
        cursor = await connection.execute(
            _SQL["note_recut"], {"document_id": document_id, "chunk_set": chunk_set}
        )
        row = await cursor.fetchone()
        if not (row and row[0]):
            raise PipelineSwitchedError(
                f"pipeline {self.pipeline.name!r} was switched to another plan of chunks while a document was cut: "
                "it is to be cut again"
            )

    async def _create_job(
        self,
        connection: Connection,
        document_id: int,
        chunks: Sequence[Chunk],
        *,
        status: str = "chunk_preview_ready",
        error_stage: str | None = None,
        error_message: str | None = None,
    ) -> UUID:
        unknown_price = self.pipeline.price_per_million_tokens is None
        cursor = await connection.execute(
            _SQL["create_job"],
            {
                "tenant_id": self.pipeline.tenant_id,
                "pipeline_id": self.pipeline.id,
                "document_id": document_id,
                "batch_id": self._batch_id,
                "status": status,
                "priority": self._priority,
                "total_chunks": len(chunks),
                "total_tokens": sum(chunk.tokens for chunk in chunks),
                "cost_usd": None if unknown_price else 0,
                "error_stage": error_stage,
                "error_message": error_message,
            },
        )
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101 - RETURNING of an insert gives its row
        job_id: UUID = row[0]
        return job_id

    async def _launch(
        self,
        connection: Connection,
        document_id: int,
        job_id: UUID,
        chunks: int,
        *,
        batch_id: UUID | None = None,
        priority: str | None = None,
    ) -> Launched:
        cursor = await connection.execute(
            _SQL["launch_document"],
            {
                "document_id": document_id,
                "job_id": job_id,
                "batch_id": batch_id or self._batch_id,
                "priority": priority or self._priority,
                "usage_type": self._usage_type,
            },
        )
        row = await cursor.fetchone()
        lacking, tokens, reason = row or (0, 0, None)
        enqueued = lacking if reason is None else 0
        return Launched(job_id, document_id, chunks, enqueued, tokens, reason if lacking else None)
