"""Documents stored without a parser and embedded without a provider, for tests of storing. Must not assert."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql

from embedmill.app import App
from embedmill.core.documents import Chunk, ParsedDocument, Place
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from embedmill.ingest.storing import Launched, SourceContent, Storing
from embedmill.queue.items import complete_items, hold_items
from tests.support.queue_rows import claim


async def save(
    app: App,
    pipeline: Pipeline,
    texts: list[str],
    *,
    batch: UUID | None = None,
    source_id: str = "doc",
    pages: bool = False,
) -> Launched:
    """A document of these chunks, two on a page where it has pages."""
    whole = "\n".join(texts)
    chunks, places, start = [], [], 0
    for ordinal, text in enumerate(texts):
        path = ("Part", f"Section {ordinal // 2}") if pages else ()
        chunks.append(Chunk(ordinal, start, start + len(text), text, len(text), path))
        if pages:
            places.append(Place("page", str(ordinal // 2 + 1), start, start + len(text) + 1))
        start += len(text) + 1
    content = SourceContent("test", source_id, source_id, len(whole), hashlib.sha256(whole.encode()).digest())
    document = ParsedDocument(whole, "text/plain", title=f"Title of {source_id}", places=tuple(places))
    return await Storing(app.database, pipeline, batch_id=batch or uuid4()).save(content, document, chunks)


async def embed_all(app: App, pipeline: Pipeline) -> None:
    """Give every chunk that lacks one a vector, and end the items: a worker without a provider."""
    generation = pipeline.generation.id
    while items := await claim(app.database, generation):
        async with app.database.transaction() as connection:
            held = await hold_items(connection, items)
            ours = [item for item in items if item.id in held]
            added = await connection.execute(
                sql.SQL(
                    "INSERT INTO {} SELECT id, content_hash, array_fill(1, ARRAY[16])::vector, document_id "
                    "  FROM embedmill.knowledge_chunks WHERE document_id = ANY (%s) AND error_reason IS NULL "
                    "ON CONFLICT DO NOTHING"
                ).format(vectors_table(generation)),
                ([item.document_id for item in ours],),
            )
            await complete_items(connection, generation, sorted(held))
            for job in sorted({item.job_id for item in ours if item.job_id is not None}):
                await connection.execute(
                    "SELECT embedmill.advance_jobs(ARRAY[%s::uuid], ARRAY[0], ARRAY[0], ARRAY[0], ARRAY[0::bigint], "
                    "ARRAY[0::numeric])",
                    (job,),
                )
            await connection.execute(
                "UPDATE embedmill.coverage_counters SET embedded = embedded + %s WHERE generation_id = %s",
                (added.rowcount, generation),
            )


async def chunks_of(app: App, document_id: int) -> list[tuple[Any, ...]]:
    return await app.database.fetch(
        "SELECT text, ordinal, start_offset, end_offset, place_kind, place_first, heading_path, id "
        "  FROM embedmill.knowledge_chunks WHERE document_id = %s ORDER BY ordinal",
        (document_id,),
    )


async def take_vectors(app: App, pipeline: Pipeline, which: str) -> None:
    """As an audit does that finds them wrong."""
    rows = await app.database.fetch(
        f"DELETE FROM embedmill.vectors_{pipeline.generation.id} WHERE chunk_id IN "
        f"(SELECT id FROM embedmill.knowledge_chunks WHERE {which}) RETURNING chunk_id".encode()
    )
    assert rows
    await app.database.fetch(
        "UPDATE embedmill.coverage_counters SET embedded = embedded - %s WHERE generation_id = %s",
        (len(rows), pipeline.generation.id),
    )


async def reopen(app: App, launched: Launched) -> None:
    """A completed job stays completed: only one that failed is taken up again."""
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE embedmill.ingestion_jobs SET status = 'failed' WHERE id = %s", (launched.job_id,)
        )
