"""What documents lack is enqueued in each generation of their pipeline, set-wise and by index."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.ingest.hand_made import embed_all, save
from tests.support import audit
from tests.support.work import unanswered_pipeline

NEXT = """
SELECT embedmill.create_generation(p.id, g.spec || '{"model": "another"}', g.dimensions, g.storage, g.chunk_tokens,
                                   g.chunk_overlap, 3)
  FROM embedmill.pipelines p JOIN embedmill.generations g ON g.id = p.current_generation_id WHERE p.id = %s
"""
ITEMS = """
SELECT generation_id, document_id, part, first_ordinal, last_ordinal, priority::text, job_id IS NOT NULL,
       available_at < 'infinity', content_version
  FROM embedmill.embedding_queue ORDER BY generation_id, document_id, part
"""
ENQUEUE = """
SELECT document_id, generation_id, chunks FROM embedmill.enqueue_documents(%s, %s, %s, 'internal_ingestion')
 ORDER BY 2, 1
"""


@pytest.fixture
async def pipeline(app: App) -> Pipeline:
    return await unanswered_pipeline(app)


async def next_generation(app: App, pipeline: Pipeline) -> int:
    (row,) = await app.database.fetch(NEXT, (pipeline.id,))
    return int(row[0])


async def enqueue(app: App, documents: list[int], priority: str = "low") -> list[tuple[Any, ...]]:
    return await app.database.fetch(ENQUEUE, (documents, uuid4(), priority))


async def test_a_save_enqueues_in_every_generation_and_only_the_live_one_is_of_the_job(
    app: App, pipeline: Pipeline
) -> None:
    second = await next_generation(app, pipeline)
    launched = await save(app, pipeline, ["a", "bb"])
    assert launched.enqueued_chunks == 2
    document = launched.document_id
    assert await app.database.fetch(ITEMS) == [
        (pipeline.generation.id, document, 0, 0, 1, "medium", True, True, 1),
        (second, document, 0, 0, 1, "medium", False, True, 1),
    ]
    await embed_all(app, pipeline)
    assert [job[1] for job in await audit.newest_jobs(app)] == ["completed"]


async def test_a_new_generation_begins_with_the_counts_of_its_chunks(app: App, pipeline: Pipeline) -> None:
    await save(app, pipeline, ["a", "bb", "ccc"])
    second = await next_generation(app, pipeline)
    await save(app, pipeline, ["d"], source_id="other")
    rows = await app.database.fetch(
        "SELECT generation_id, chunks, embedded FROM embedmill.coverage_counters WHERE chunks > 0 ORDER BY 1"
    )
    assert rows == [(pipeline.generation.id, 4, 0), (second, 4, 0)]


async def test_what_waits_already_is_merged_and_what_stands_is_left_out(app: App, pipeline: Pipeline) -> None:
    first = await save(app, pipeline, ["a"], source_id="1")
    await embed_all(app, pipeline)
    second = await save(app, pipeline, [f"t{n}" for n in range(501)], source_id="2")
    newer = await next_generation(app, pipeline)
    documents = [first.document_id, second.document_id]
    live = pipeline.generation.id
    assert await enqueue(app, documents) == [
        (documents[1], live, 500),
        (documents[1], live, 1),
        (documents[0], newer, 1),
        (documents[1], newer, 500),
        (documents[1], newer, 1),
    ]
    before = await app.database.fetch(ITEMS)
    assert [row[5] for row in before] == ["medium", "medium", "low", "low", "low"]
    await enqueue(app, documents, "high")
    assert [row[:5] for row in await app.database.fetch(ITEMS)] == [row[:5] for row in before]
    assert {row[5] for row in await app.database.fetch(ITEMS)} == {"high"}


async def test_a_deletion_that_waits_is_called_off(app: App, pipeline: Pipeline) -> None:
    saved = await save(app, pipeline, ["a"])
    newer = await next_generation(app, pipeline)
    await app.database.fetch(
        "SELECT embedmill.enqueue_deletion(%s, NULL, 'medium', '{}', NULL)", (saved.document_id,)
    )
    found = await enqueue(app, [saved.document_id])
    assert [row[1] for row in found] == [pipeline.generation.id, newer]
    rows = await app.database.fetch("SELECT operation::text FROM embedmill.embedding_queue")
    assert rows == [("INSERT",), ("INSERT",)]


async def test_an_item_that_waits_to_be_read_takes_the_chunks_or_ends(app: App, pipeline: Pipeline) -> None:
    """As a shard's does: it stands before there are chunks."""
    cut = await save(app, pipeline, ["a", "bb"], source_id="1")
    same = await save(app, pipeline, ["ccc"], source_id="2")
    await embed_all(app, pipeline)
    await app.database.fetch(
        "DELETE FROM embedmill.knowledge_chunks WHERE document_id = %s AND ordinal = 1 RETURNING 1",
        (cut.document_id,),
    )
    for saved in (cut, same):
        await app.database.fetch(
            "INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, document_id, source_type, source_id, "
            "    available_at) VALUES (1, %s, %s, 'test', '', 'infinity') RETURNING id",
            (pipeline.generation.id, saved.document_id),
        )
    await app.database.fetch(
        "INSERT INTO embedmill.knowledge_chunks (tenant_id, pipeline_id, document_id, ordinal, start_offset, "
        "    end_offset, token_count, text_config, content_hash, text) "
        "VALUES (1, %s, %s, 1, 2, 4, 1, 'simple', 'x', 'new') RETURNING id",
        (pipeline.id, cut.document_id),
    )
    found = await enqueue(app, [cut.document_id, same.document_id])
    assert found == [(cut.document_id, pipeline.generation.id, 1)]
    assert [row[:5] + row[7:8] for row in await app.database.fetch(ITEMS)] == [
        (pipeline.generation.id, cut.document_id, 0, 1, 1, True)
    ]
    rows = await app.database.fetch(
        "SELECT status::text, vector_count FROM embedmill.embedding_queue_history WHERE document_id = %s "
        "ORDER BY id DESC LIMIT 1",
        (same.document_id,),
    )
    assert rows == [("completed", 1)]


async def test_five_hundred_documents_are_enqueued_by_index(app: App, pipeline: Pipeline) -> None:
    newer = await next_generation(app, pipeline)
    await app.database.fetch(
        "WITH documents AS (INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, "
        "    name, chunk_count) SELECT 1, %(pipeline)s, 'test', n::text, n::text, 1 "
        "  FROM generate_series(1, 20000) AS n RETURNING id) "
        "INSERT INTO embedmill.knowledge_chunks (tenant_id, pipeline_id, document_id, ordinal, "
        "    start_offset, end_offset, token_count, text_config, content_hash, text) "
        "SELECT 1, %(pipeline)s, id, 0, 0, 1, 1, 'simple', substring(sha256(id::text::bytea) FOR 16), id::text "
        "  FROM documents RETURNING 1",
        {"pipeline": pipeline.id},
    )
    tables = ["knowledge_documents", "knowledge_chunks", "embedding_queue"]
    tables += [f"vectors_{pipeline.generation.id}", f"vectors_{newer}"]
    with psycopg.connect(app.database.url) as connection:
        documents = [
            row[0]
            for row in connection.execute(
                "SELECT id FROM embedmill.knowledge_documents ORDER BY id LIMIT 500"
            )
        ]
        connection.rollback()
        rows = connection.execute(ENQUEUE, (documents, uuid4(), "low")).fetchall()
        assert len(rows) == 1000
        scanned = connection.execute(
            "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE seq_scan > 0 AND relname = ANY (%s)",
            (tables,),
        ).fetchall()
        assert scanned == []
