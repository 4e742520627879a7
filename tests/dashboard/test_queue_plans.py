"""What the pages of the queue and of workers ask is read by index beside a long history and a long backlog, whatever
the statistics say; what they count is counted up to a bound."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.core.jobs import ItemStatus
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import load_queries
from embedmill.queue import administration
from embedmill.queue.embedding_job_pages import LOOKED_THROUGH
from embedmill.queue.selection import Selection, open_scope
from tests.queue.test_plans_of_alerts import SCANNED
from tests.queue.test_plans_of_status import BATCH, HISTORY, ITEMS, LIVE

ENDED = 60_000
OPEN_LETTERS = 50
LETTERS = """
INSERT INTO embedmill.dead_letters (tenant_id, generation_id, item_id, reason, error_message, created_at, resolved_at)
SELECT 1, %(generation)s, 2000000 + n, 'input_rejected', 'refused', now() - n * interval '1 s',
       CASE WHEN n > 50 THEN now() END
  FROM generate_series(1, %(ended)s) AS n
"""
FAILED = """
INSERT INTO embedmill.embedding_queue_history
    (id, tenant_id, generation_id, part, status, priority, operation, retry_count, max_retries, crash_count,
     estimated_tokens, actual_tokens, vector_count, created_at, processing_completed_at, source_type,
     source_id, metadata)
SELECT 2000000 + n, 1, %(generation)s, 0, 'failed', 'low', 'INSERT', 0, 3, 0, 1, 1, 0, now(), now(), 'failed',
       n::text, '{}'
  FROM generate_series(1, 50) AS n
"""
PAGE = load_queries("embedmill.dashboard", "queue.sql")
LETTER = load_queries("embedmill.queue", "dead_letters.sql")
JOBS = load_queries("embedmill.queue", "embedding_jobs.sql")
ROSTER = load_queries("embedmill.fleet", "roster.sql")


def read_by(
    connection: psycopg.Connection[tuple[object, ...]],
    statement: sql.Composable,
    given: dict[str, Any],
    *,
    is_look: bool = False,
) -> tuple[int, int]:
    """Blocks that a statement touches, and rows that it reads one after the other from the large tables."""
    with connection.transaction():
        if is_look:
            connection.execute(administration._SQL["by_index"])
        before = connection.execute(SCANNED).fetchone()
        explained = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}").format(statement)
        row = connection.execute(explained, given).fetchone()
        after = connection.execute(SCANNED).fetchone()
    assert row is not None
    assert before is not None
    assert after is not None
    top = row[0][0]["Plan"]  # type: ignore[index]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], after[0] - before[0]  # type: ignore[operator]


@pytest.mark.parametrize("statistics", ["analysed when empty", "fresh"])
async def test_no_page_reads_queue_history_or_letters_one_by_one(
    app: App, pipeline: Pipeline, statistics: str
) -> None:
    with psycopg.connect(app.database.url, autocommit=True) as connection:
        for (table,) in connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'embedmill'::regnamespace"
        ).fetchall():
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        if statistics == "analysed when empty":
            connection.execute("ANALYZE")
        given = {"generation": pipeline.generation.id, "items": ITEMS, "ended": ENDED, "batch": BATCH}
        for statement in (LIVE, HISTORY, FAILED, LETTERS):
            connection.execute(statement.encode(), given)
        if statistics == "fresh":
            connection.execute("ANALYZE")
        for name, (asked, parameters, most_blocks) in (await questions(app)).items():
            blocks, scanned = read_by(
                connection, asked, parameters, is_look="error" in parameters or name == "batches"
            )
            assert scanned == 0, f"{name} scans {scanned} rows ({statistics})"
            assert blocks < most_blocks, f"{name} touches {blocks} blocks ({statistics})"
        nothing = sql.SQL("SELECT count(*) FROM embedmill.dead_letters WHERE reason = ''")
        assert read_by(connection, nothing, {})[1] == ENDED, "a scan would have been seen"


async def questions(app: App) -> dict[str, tuple[sql.Composable, dict[str, Any], int]]:
    """By name: what is asked, and the blocks that it may touch. A bounded count of thousands touches some thousands."""
    tenant = {"tenant_id": 1}
    letters = {**tenant, "ids": None, "reason": None, "generation_ids": None, "record_source_id": None}
    failed = await open_scope(app.database, 1, Selection(statuses=(ItemStatus.FAILED,)))
    batch = await open_scope(app.database, 1, Selection(batch_id=UUID(int=7)))
    retry = administration._given(failed)
    cancel = {**administration._given(batch), "limit": 8}
    complete = administration._complete
    page = {**letters, "resolved_too": False, "limit": 51, "after": 2**63 - 1}
    floor = {**tenant, "before": 2**63 - 1, "looked_through": LOOKED_THROUGH}
    return {
        "pipelines": (PAGE["pipelines"], tenant, 200),
        "troubles": (PAGE["troubles"], tenant, 200),
        "batches": (PAGE["batches"], {**tenant, "limit": 8, "most": 1000}, 1_500),
        "tokens": (PAGE["tokens"], {**tenant, "ids": [77, 1_000_077]}, 1_000),
        "floor": (JOBS["floor"].format(status=JOBS["of_any_status"]), floor, 25_000),
        "reasons": (LETTER["by_reason"], {**tenant, "most": 10_000}, 100),
        "letters": (LETTER["list"], page, 600),
        "letters of a source": (LETTER["list"], {**page, "record_source_id": 3}, 600),
        "letters counted": (LETTER["count"], letters, 600),
        "the last letter": (LETTER["last_id"], tenant, 20),
        "one letter": (LETTER["one"], {**tenant, "letter_id": 7, "with_text": True}, 100),
        "retryable": (complete("preview_retryable"), {**retry, "limit": 8}, 5_000),
        "a sample of live ones": (complete("sample_live"), cancel, 500),
        "roster": (ROSTER["roster"], {"limit": 200, "rate_seconds": 300.0}, 500),
        "sweeps": (ROSTER["sweeps"], {}, 100),
        "builds": (ROSTER["builds"], {}, 100),
    }
