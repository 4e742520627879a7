"""An audit of documents that were ingested: vectors, items, jobs; and what is a person's will, and no fault."""

from __future__ import annotations

import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from tests.sources.auditing import audit, counts, delete_vectors, mended, named
from tests.support.audit import assert_books_balance
from tests.support.provider import RunningProvider
from tests.support.records import work_until_quiet
from tests.support.work import add_document


async def embedded_documents(app: App, pipeline: Pipeline, documents: int, chunks: int = 3) -> None:
    for n in range(documents):
        await add_document(app, pipeline, f"doc{n}", [f"Passage {c} of paper {n}." for c in range(chunks)])
    await work_until_quiet(app)


async def assert_mends(app: App, provider: RunningProvider, expected: dict[str, int], *, paid: int) -> None:
    provider.forget_counts()
    assert mended(await audit(app, mends="all")) == expected
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == paid
    assert counts(await audit(app)) == {}
    await assert_books_balance(app)


async def test_a_job_that_says_completed_and_lacks_vectors(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_documents(app, pipeline, 4)
    await delete_vectors(app, pipeline, ["doc1"])
    # Without its history the job still says so.
    await app.database.fetch("DELETE FROM embedmill.embedding_queue_history WHERE source_id = 'doc1'")
    record = await audit(app)
    assert counts(record) == {"done_but_no_vector": 1, "job_counters_that_lie": 1}
    assert named(record, "done_but_no_vector") == {"doc1"}
    await assert_mends(app, provider, counts(record), paid=3)
    assert await app.database.fetch("SELECT DISTINCT status::text FROM embedmill.ingestion_jobs") == [
        ("completed",)
    ]


async def test_vectors_whose_chunk_is_gone(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await embedded_documents(app, pipeline, 3)
    await app.database.fetch(
        sql.SQL(
            "INSERT INTO {0} SELECT chunk_id + 1000000, input_hash, embedding FROM {0} ORDER BY chunk_id LIMIT 4"
        ).format(vectors_table(pipeline.generation.id))
    )
    record = await audit(app)
    assert counts(record) == {"vector_without_source": 4}
    assert counts(await audit(app, pipeline=pipeline.name)) == counts(record)
    assert counts(await audit(app, pipeline="default")) == {}, "it is none of the other pipeline's"
    await assert_mends(app, provider, {"vector_without_source": 4}, paid=0)


async def test_an_item_that_was_lost(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await embedded_documents(app, pipeline, 1)
    await add_document(app, pipeline, "lost", ["One passage.", "Another passage."])
    await add_document(app, pipeline, "waiting", ["It waits for a worker."])
    assert counts(await audit(app)) == {}, "what waits is no fault"
    await app.database.fetch(
        "WITH gone AS (DELETE FROM embedmill.embedding_queue WHERE source_id = 'lost' RETURNING *)"
        "INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)"
        " SELECT tenant_id, generation_id, 'live', -1 FROM gone"
    )
    assert counts(await audit(app)) == {}, "it may be embedded without the queue just now"
    await app.database.fetch("UPDATE embedmill.ingestion_jobs SET updated_at = now() - interval '1 hour'")
    record = await audit(app)
    assert (counts(record), named(record, "source_never_queued")) == ({"source_never_queued": 1}, {"lost"})
    await assert_mends(app, provider, {"source_never_queued": 1}, paid=3)


@pytest.mark.parametrize("will", ["cancelled", "failed", "chunk_preview_ready"])
async def test_what_a_person_stopped_or_was_told_of_is_no_fault(
    app: App, pipeline: Pipeline, provider: RunningProvider, will: str
) -> None:
    await add_document(app, pipeline, "stopped", ["It was stopped."])
    await app.database.fetch("DELETE FROM embedmill.embedding_queue")
    await app.database.fetch(
        "INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)"
        " VALUES (%s, %s, 'live', -1)",
        (pipeline.tenant_id, pipeline.generation.id),
    )
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE embedmill.ingestion_jobs SET status = %s::embedmill.job_status,"
            "       updated_at = now() - interval '1 hour'",
            (will,),
        )
    assert counts(await audit(app, mends="all")) == {}


async def test_jobs_that_say_what_is_not_so(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await embedded_documents(app, pipeline, 4)
    async with app.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE embedmill.ingestion_jobs j"
            "   SET embedded_chunks = CASE d.source_id WHEN 'doc0' THEN 1 ELSE embedded_chunks END,"
            "       total_chunks = CASE d.source_id WHEN 'doc1' THEN 7 ELSE total_chunks END,"
            "       status = CASE d.source_id WHEN 'doc2' THEN 'embedding_in_progress'"
            "                     WHEN 'doc3' THEN 'staged' ELSE 'completed' END::embedmill.job_status,"
            "       updated_at = now() - interval '1 hour'"
            "  FROM embedmill.knowledge_documents d WHERE d.id = j.document_id"
        )
    record = await audit(app)
    assert counts(record) == {"job_counters_that_lie": 4}
    details = {example.source: example.detail for finding in record.findings for example in finding.examples}
    assert details == {
        "test doc0": "says (3, 1, 0), and has (3, 3, 0) (chunks, embedded, failed)",
        "test doc1": "says (7, 3, 0), and has (3, 3, 0) (chunks, embedded, failed)",
        "test doc2": "says embedding_in_progress, and nothing is left to wait for",
        "test doc3": "waits for a parser, and none will come to it",
    }
    provider.forget_counts()
    assert mended(await audit(app, mends="books")) == counts(record), "it is bookkeeping"
    assert counts(await audit(app)) == {}
    assert await app.database.fetch(
        "SELECT j.status::text, count(*) FROM embedmill.ingestion_jobs j GROUP BY 1 ORDER BY 1"
    ) == [("completed", 3), ("staged", 1)]
    assert await app.database.fetch("SELECT count(*) FROM embedmill.parse_queue") == [(1,)]


async def test_a_document_of_several_items_pays_for_the_lost_part_only(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "book", [f"Page {n} of the book." for n in range(520)])
    await work_until_quiet(app)
    await app.database.fetch(
        sql.SQL(
            "DELETE FROM {} WHERE chunk_id IN (SELECT id FROM embedmill.knowledge_chunks WHERE ordinal >= 515)"
        ).format(vectors_table(pipeline.generation.id))
    )
    record = await audit(app)
    assert counts(record) == {"done_but_no_vector": 1, "job_counters_that_lie": 1}
    assert record.findings[0].examples[0].detail == (
        f"5 of the chunks from 500 on lack their vector in generation {pipeline.generation.id}"
    )
    await assert_mends(app, provider, counts(record), paid=5)
