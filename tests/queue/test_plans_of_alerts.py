"""A look at what needs attention costs the same beside a million ended items and a hundred thousand that wait: it reads
by index and from counters, whatever the statistics say."""

from __future__ import annotations

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.queue.test_plans_of_status import BATCH, HISTORY, ITEMS, LIVE

ENDED = 60_000
LETTERS = """
INSERT INTO embedmill.dead_letters (tenant_id, generation_id, item_id, reason, error_message, created_at, resolved_at)
SELECT 1, %(generation)s, n, 'input_rejected', 'refused', now() - n * interval '1 s',
       CASE WHEN n > 50 THEN now() END
  FROM generate_series(1, %(ended)s) AS n
"""
CALLS = """
INSERT INTO embedmill.llm_usage_log
    (tenant_id, call_id, usage_type, action, provider, model, inputs, input_tokens, latency_ms, created_at)
SELECT 1, gen_random_uuid(), 'internal_ingestion', 'embed', 'openai', 'm', 1, 1, 1, now()
  FROM generate_series(1, %(ended)s) AS n
"""
JOBS = """
WITH d AS (
    INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name)
    SELECT 1, %(pipeline)s, 'test', n::text, n::text FROM generate_series(1, 20000) AS n RETURNING id
)
INSERT INTO embedmill.ingestion_jobs (tenant_id, pipeline_id, document_id, status, original_key, completed_at)
SELECT 1, %(pipeline)s, id, 'completed', 'tenants/1/' || gen_random_uuid(), now() FROM d
"""


def read_by(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> tuple[int, int]:
    """Blocks that a statement touches, and rows that it reads one after the other from the large tables."""
    with connection.transaction():
        before = connection.execute(SCANNED).fetchone()
        (plan,) = connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode()
        ).fetchone()  # type: ignore[misc]
        after = connection.execute(SCANNED).fetchone()
    top = plan[0]["Plan"]  # type: ignore[index]
    assert before is not None
    assert after is not None
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], after[0] - before[0]  # type: ignore[operator]


SCANNED = """
SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(c.oid)), 0)::bigint FROM pg_class c
 WHERE c.relnamespace = 'embedmill'::regnamespace AND c.relkind = 'r'
   AND c.relname ~ '^(embedding_queue|embedding_queue_history_.*|llm_usage_log|dead_letters|ingestion_jobs|events)$'
"""


@pytest.mark.parametrize("statistics", ["analysed when empty", "fresh"])
def test_a_look_and_a_step_of_retention_never_scan_what_is_large(
    app: App, pipeline: Pipeline, statistics: str
) -> None:
    with psycopg.connect(app.database.url, autocommit=True) as connection:
        for (table,) in connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'embedmill'::regnamespace"
        ).fetchall():
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        if statistics == "analysed when empty":
            connection.execute("ANALYZE")
        given = {
            "generation": pipeline.generation.id,
            "pipeline": pipeline.id,
            "items": ITEMS,
            "ended": ENDED,
        }
        for statement in (LIVE, HISTORY, LETTERS, CALLS, JOBS):
            connection.execute(statement.encode(), {**given, "batch": BATCH})
        connection.execute("SELECT embedmill.set_config_value('usage_retention_days', '365')")
        connection.execute("SELECT embedmill.set_config_value('originals_retention_days', '365')")
        if statistics == "fresh":
            connection.execute("ANALYZE")
        connection.execute("SELECT embedmill.watch_alerts(), embedmill.drop_expired()")
        for statement, most_blocks in (
            ("SELECT embedmill.watch_alerts()", 1_000),
            ("SELECT embedmill.drop_expired()", 500),
            ("SELECT embedmill.forget_originals()", 300),
        ):
            blocks, scanned = read_by(connection, statement)
            assert blocks < most_blocks, statement
            assert scanned == 0, statement
        assert read_by(connection, "SELECT count(*) FROM embedmill.llm_usage_log")[1] == ENDED
