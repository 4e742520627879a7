"""Recounts the books from the tables, for tests: coverage, jobs, queue and history. Owns the independent
reading; must not use the counters it checks for anything but the comparison."""

from __future__ import annotations

from typing import Any

from psycopg import sql

from embedmill.app import App
from embedmill.database.queries import vectors_table


async def assert_books_balance(app: App) -> None:
    """Coverage counters equal a recount; no vector without its chunk, of another document or text; no item both live
    and ended, or ended twice; a completed job's counts are those of its document's chunks."""
    database = app.database
    for (generation_id,) in await database.fetch("SELECT id FROM embedmill.generations ORDER BY id"):
        await _assert_coverage(app, generation_id)
        await _assert_vectors(app, generation_id)
    twice = await database.fetch(
        "SELECT id FROM embedmill.embedding_queue_history GROUP BY id HAVING count(*) > 1 "
        "UNION SELECT q.id FROM embedmill.embedding_queue q JOIN embedmill.embedding_queue_history USING (id)"
    )
    assert twice == [], f"items that ended twice, or live on after their end: {twice}"
    await _assert_jobs(app)


async def _assert_coverage(app: App, generation_id: int) -> None:
    counted = await app.database.fetch_one(
        "SELECT chunks, embedded, unembeddable FROM embedmill.generation_coverage WHERE generation_id = %s",
        (generation_id,),
    )
    recounted = await app.database.fetch_one(
        sql.SQL(
            "SELECT (SELECT count(*) FROM embedmill.knowledge_chunks c JOIN embedmill.generations g "
            "          ON g.pipeline_id = c.pipeline_id AND g.chunk_set = c.chunk_set WHERE g.id = %(generation_id)s),"
            "       (SELECT count(*) FROM {vectors}),"
            "       (SELECT count(*) FROM embedmill.knowledge_chunks c JOIN embedmill.generations g "
            "          ON g.pipeline_id = c.pipeline_id AND g.chunk_set = c.chunk_set "
            "         WHERE g.id = %(generation_id)s AND c.error_reason IS NOT NULL)"
        ).format(vectors=vectors_table(generation_id)),
        {"generation_id": generation_id},
    )
    assert counted == recounted, f"generation {generation_id}: counters {counted}, tables {recounted}"


async def _assert_vectors(app: App, generation_id: int) -> None:
    wrong = await app.database.fetch(
        sql.SQL(
            "SELECT v.chunk_id FROM {vectors} v LEFT JOIN embedmill.knowledge_chunks c ON c.id = v.chunk_id "
            " WHERE c.id IS NULL OR c.error_reason IS NOT NULL OR c.content_hash <> v.input_hash "
            "    OR v.document_id IS DISTINCT FROM c.document_id "
            "    OR c.content_hash <> substring(sha256(convert_to(c.text, 'UTF8')) FROM 1 FOR 16)"
        ).format(vectors=vectors_table(generation_id))
    )
    assert wrong == [], f"vectors without a chunk, of another document or text: {wrong}"


async def _assert_jobs(app: App) -> None:
    for job in await newest_jobs(app):
        job_id, status, generation_id, document_id, total, embedded, failed = job
        row = await app.database.fetch_one(
            sql.SQL(
                "SELECT count(*), count(v.chunk_id), count(*) FILTER (WHERE c.error_reason IS NOT NULL) "
                "  FROM embedmill.knowledge_chunks c LEFT JOIN {vectors} v ON v.chunk_id = c.id "
                " WHERE c.document_id = %s "
                "   AND c.chunk_set = (SELECT chunk_set FROM embedmill.generations WHERE id = %s)"
            ).format(vectors=vectors_table(generation_id)),
            (document_id, generation_id),
        )
        if status in {"completed", "embedding_in_progress"}:
            assert (total, embedded, failed) == row, f"job {job_id} ({status}): {job[4:]}, tables {row}"
        if status == "completed":
            assert embedded + failed == total
            live = await app.database.fetch(
                "SELECT id FROM embedmill.embedding_queue WHERE job_id = %s", (job_id,)
            )
            assert live == [], f"job {job_id} is completed and its items {live} live"


async def newest_jobs(app: App) -> list[tuple[Any, ...]]:
    """(id, status, generation, document, total, embedded, failed) of the newest job of each document."""
    return await app.database.fetch(
        "SELECT DISTINCT ON (j.document_id) j.id, j.status::text, p.current_generation_id, j.document_id, "
        "       j.total_chunks, j.embedded_chunks, j.failed_chunks "
        "  FROM embedmill.ingestion_jobs j JOIN embedmill.pipelines p ON p.id = j.pipeline_id "
        " ORDER BY j.document_id, j.created_at DESC"
    )


async def ended_items(app: App) -> list[tuple[str, int, int, str | None]]:
    """(status, retry_count, crash_count, error) of every item that has ended, in order of id."""
    return [
        (row[0], row[1], row[2], row[3])
        for row in await app.database.fetch(
            "SELECT status::text, retry_count, crash_count, error_message "
            "  FROM embedmill.embedding_queue_history ORDER BY id"
        )
    ]


async def live_items(app: App) -> list[tuple[int, str, int, int]]:
    """(id, status, retry_count, crash_count) of every live item, in order of id."""
    return [
        (row[0], row[1], row[2], row[3])
        for row in await app.database.fetch(
            "SELECT id, status::text, retry_count, crash_count FROM embedmill.embedding_queue ORDER BY id"
        )
    ]


async def dead_letters(app: App) -> list[tuple[str, int | None, str]]:
    """(reason, chunk, message) of every dead letter."""
    return [
        (row[0], row[1], row[2])
        for row in await app.database.fetch(
            "SELECT reason, chunk_id, error_message FROM embedmill.dead_letters ORDER BY id"
        )
    ]
