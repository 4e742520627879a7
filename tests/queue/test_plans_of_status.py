"""What people and dashboards ask of the queue is read by index beside a long history, whatever the statistics say:
the progress of a batch, one job, the counts, why an item waits. And claims beside a snapshot that stays open."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import connect

ITEMS, ENDED = 30_000, 60_000
BATCH = UUID(int=7)

LIVE = """
WITH enqueued AS (
    INSERT INTO embedmill.embedding_queue
        (tenant_id, generation_id, priority, available_at, batch_id, source_type, source_id)
    SELECT 1, %(generation)s, (ARRAY['high', 'medium', 'low'])[n %% 3 + 1]::embedmill.queue_priority,
           now() - n * interval '1 ms', CASE WHEN n %% 1000 = 0 THEN %(batch)s END, 'test', n::text
      FROM generate_series(1, %(items)s) AS n RETURNING 1
)
INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
SELECT 1, %(generation)s, 'live', count(*) FROM enqueued
"""
HISTORY = """
INSERT INTO embedmill.embedding_queue_history
    (id, tenant_id, generation_id, part, status, priority, operation, retry_count, max_retries, crash_count,
     estimated_tokens, actual_tokens, vector_count, created_at, processing_completed_at, batch_id, source_type,
     source_id, metadata)
SELECT 1000000 + n, 1, %(generation)s, 0, 'completed', 'low', 'INSERT', 0, 3, 0, 1, 1, 1, now(),
       now() + (n %% 3) * interval '1 day', CASE WHEN n %% 1000 = 0 THEN %(batch)s END, 'test', n::text, '{}'
  FROM generate_series(1, %(ended)s) AS n
"""
QUESTIONS = {
    "progress": ("SELECT * FROM embedmill.batch_progress(%s)", (BATCH,), 500),
    "counts": ("SELECT * FROM embedmill.count_embedding_jobs(1)", (), 500),
    "a live job": ("SELECT * FROM embedmill.embedding_jobs WHERE id = 77", (), 50),
    "an ended job": ("SELECT * FROM embedmill.embedding_jobs WHERE id = 1000077", (), 50),
    # Of what is before it and beside it, ten thousand are counted in each lane, and no more.
    "why": ("SELECT * FROM embedmill.explain_item(77)", (), 31_000),
}


@pytest.fixture
def connection(app: App) -> psycopg.Connection[tuple[object, ...]]:
    connection = connect(app.database.url)
    for (table,) in connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relname ~ '^embedding_queue' AND relkind = 'r'"
    ).fetchall():
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    return connection


@pytest.mark.parametrize("statistics", ["never analysed", "analysed when empty", "fresh"])
def test_questions_never_scan_queue_or_history(
    connection: psycopg.Connection[tuple[object, ...]], pipeline: Pipeline, statistics: str
) -> None:
    with connection:
        if statistics == "analysed when empty":
            connection.execute("ANALYZE")
        parameters = {"generation": pipeline.generation.id, "items": ITEMS, "ended": ENDED, "batch": BATCH}
        connection.execute(LIVE, parameters)
        connection.execute(HISTORY, parameters)
        if statistics == "fresh":
            connection.execute("ANALYZE")
        for question, (statement, arguments, most) in QUESTIONS.items():
            with connection.transaction():
                before = rows_read(connection)
                assert connection.execute(statement.encode(), arguments).fetchall()
                scanned, fetched = (
                    now - then for now, then in zip(rows_read(connection), before, strict=True)
                )
            assert scanned <= 100, f"{question} scans {scanned} rows ({statistics})"
            assert fetched <= most, f"{question} reads {fetched} rows ({statistics})"


def rows_read(connection: psycopg.Connection[tuple[object, ...]]) -> tuple[int, int]:
    """Rows of queue and history (read one after the other, fetched by index) in this transaction so far."""
    row = connection.execute(
        "SELECT coalesce(sum(seq_tup_read), 0), coalesce(sum(coalesce(idx_tup_fetch, 0)), 0) "
        "  FROM pg_stat_xact_user_tables WHERE relname ~ '^embedding_queue(_history.*)?$'"
    ).fetchone()
    assert row is not None
    return int(str(row[0])), int(str(row[1]))


def test_work_goes_on_beside_a_snapshot_that_stays_open(
    connection: psycopg.Connection[tuple[object, ...]], app: App, pipeline: Pipeline
) -> None:
    """A forgotten transaction keeps every dead row: claims get slower by what they must step over, and stay right."""
    generation = pipeline.generation.id
    connection.execute(LIVE, {"generation": generation, "items": 1000, "batch": BATCH})
    with psycopg.connect(app.database.url) as forgotten, connection:
        forgotten.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert forgotten.execute("SELECT count(*) FROM embedmill.embedding_queue").fetchone() == (1000,)
        done: set[int] = set()
        for _ in range(20):
            items = connection.execute(
                "SELECT id, lease_token FROM embedmill.claim_items(%s, %s, 50, 10000, 10000, 60)",
                (uuid4(), generation),
            ).fetchall()
            ids = [int(str(item[0])) for item in items]
            assert len(ids) == 50
            assert not done & set(ids), "an item came twice"
            assert connection.execute(
                "SELECT cardinality(embedmill.finish_items(%s, %s))", (ids, [item[1] for item in items])
            ).fetchone() == (50,)
            done.update(ids)
        assert connection.execute("SELECT count(*) FROM embedmill.embedding_queue").fetchone() == (0,)
        assert forgotten.execute("SELECT count(*) FROM embedmill.embedding_queue").fetchone() == (1000,)


SOURCES = """
INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, priority, source_type, source_id)
SELECT 1, %(generation)s, (ARRAY['high', 'medium', 'low'])[n %% 3 + 1]::embedmill.queue_priority, 'test', n::text
  FROM generate_series(1, 3000) AS n
"""


@pytest.mark.parametrize("taken_at_once", [1, 10])
def test_items_without_a_document_are_claimed_and_ended_by_their_ids(
    connection: psycopg.Connection[tuple[object, ...]], pipeline: Pipeline, taken_at_once: int
) -> None:
    """They share an index of their own, which whoever asks for them by their want of a document would read whole."""
    generation = pipeline.generation.id
    claim = "SELECT id, lease_token FROM embedmill.claim_items(%s, %s, %s, 10000, 10000, 60)"
    finish = "SELECT cardinality(embedmill.finish_items(%s, %s))"
    with connection:
        for _ in range(2):  # The plans are made while the table is empty, and kept.
            connection.execute(claim, (uuid4(), generation, taken_at_once))
            connection.execute(finish, ([0] * taken_at_once, [0] * taken_at_once))
        connection.execute(SOURCES, {"generation": generation})
        for _ in range(3):
            with connection.transaction():
                before = rows_read(connection)
                items = connection.execute(claim, (uuid4(), generation, taken_at_once)).fetchall()
                ids, tokens = [item[0] for item in items], [item[1] for item in items]
                assert connection.execute(finish, (ids, tokens)).fetchone() == (taken_at_once,)
                scanned, fetched = (
                    now - then for now, then in zip(rows_read(connection), before, strict=True)
                )
            assert scanned == 0
            assert fetched <= 10 + 10 * taken_at_once
