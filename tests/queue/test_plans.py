"""The queue's statements read by index, however long the backlog and whatever the statistics say: measured on
what the functions really do (pg_stat_xact_user_tables), not on an EXPLAIN of a copy of their text."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline

ITEMS = 100_000
CHUNKS_PER_DOCUMENT = 50
DOCUMENTS = 800
CLAIMED = 100

BACKLOG = """
INSERT INTO embedmill.embedding_queue
    (tenant_id, generation_id, document_id, part, job_id, first_ordinal, last_ordinal, priority, available_at,
     source_type, source_id)
SELECT 1, %(generation_id)s, n %% %(documents)s + 1, n / %(documents)s,
       lpad((n %% %(documents)s + 1)::text, 32, '0')::uuid, 0, %(last)s,
       (ARRAY['high', 'medium', 'low'])[n %% 3 + 1]::embedmill.queue_priority, now() - n * interval '1 ms',
       'test', n::text
  FROM generate_series(1, %(items)s) AS n
"""
DOCUMENT_ROWS = """
INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name)
SELECT 1, %(pipeline_id)s, 'test', n::text, n::text FROM generate_series(1, %(documents)s) AS n
"""
JOB_ROWS = """
INSERT INTO embedmill.ingestion_jobs (id, tenant_id, pipeline_id, document_id, status, total_chunks)
SELECT lpad(id::text, 32, '0')::uuid, 1, pipeline_id, id, 'embedding_in_progress', %(last)s + 1
  FROM embedmill.knowledge_documents
"""
CHUNK_ROWS = """
INSERT INTO embedmill.knowledge_chunks
    (tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset, token_count, text_config,
     content_hash, text)
SELECT 1, %(pipeline_id)s, d.id, n, n, n + 1, 5, 'simple',
       substring(sha256(convert_to(d.id || '/' || n, 'UTF8')) FROM 1 FOR 16), d.id || '/' || n
  FROM embedmill.knowledge_documents d, generate_series(0, %(last)s) AS n
"""


@pytest.fixture
def crowded(app: App, pipeline: Pipeline) -> psycopg.Connection[tuple[object, ...]]:
    """A connection to a database with a long backlog, of which the vectors of every other chunk stand, and
    which nobody has ever analysed (nor will, behind our back)."""
    connection = psycopg.connect(app.database.url, autocommit=True)
    vectors = f"embedmill.vectors_{pipeline.generation.id}"
    for table in (
        "embedmill.embedding_queue",
        "embedmill.knowledge_chunks",
        "embedmill.ingestion_jobs",
        vectors,
    ):
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    parameters = {
        "generation_id": pipeline.generation.id,
        "pipeline_id": pipeline.id,
        "documents": DOCUMENTS,
        "items": ITEMS,
        "last": CHUNKS_PER_DOCUMENT - 1,
    }
    for statement in (DOCUMENT_ROWS, JOB_ROWS, CHUNK_ROWS, BACKLOG):
        connection.execute(statement, parameters)
    connection.execute(
        f"INSERT INTO {vectors} SELECT id, content_hash, array_fill(0.25, ARRAY[16])::vector "
        "FROM embedmill.knowledge_chunks WHERE ordinal % 2 = 0".encode()
    )
    return connection


def test_claim_load_and_complete_never_scan_a_table(
    crowded: psycopg.Connection[tuple[object, ...]], pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    with crowded:
        assert_by_index(crowded, generation, "never analysed")
        # Analysed while all was being worked on: the statistics know of no waiting item.
        crowded.execute(
            "UPDATE embedmill.embedding_queue SET status = 'processing', lease_token = 1, worker_id = %s",
            (UUID(int=1),),
        )
        crowded.execute("ANALYZE")
        crowded.execute(
            "UPDATE embedmill.embedding_queue SET status = 'pending', lease_token = NULL, worker_id = NULL"
        )
        assert_by_index(crowded, generation, "stale")
        crowded.execute("ANALYZE")
        assert_by_index(crowded, generation, "fresh")


def assert_by_index(
    connection: psycopg.Connection[tuple[object, ...]], generation: int, statistics: str
) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("CREATE TEMP TABLE taken (id bigint, token bigint) ON COMMIT DROP")
        steps = {
            "ready": ("SELECT embedmill.ready_generations()", ()),
            "claim": (
                "INSERT INTO taken SELECT id, lease_token FROM embedmill.claim_items(%s, %s, %s, 1000000, 1000000, 60)",
                (uuid4(), generation, CLAIMED),
            ),
            "hold": (
                "SELECT embedmill.hold_items((SELECT array_agg(id) FROM taken), (SELECT array_agg(token) FROM taken))",
                (),
            ),
            "load": (
                "SELECT embedmill.load_chunks(%s, (SELECT array_agg(id) FROM taken WHERE id %% 10 = 0))",
                (generation,),
            ),
            "donors": (
                "SELECT embedmill.find_donors(%s, ARRAY(SELECT content_hash FROM embedmill.knowledge_chunks "
                "                                        WHERE document_id = 7))",
                (generation,),
            ),
            "jobs": (
                "SELECT embedmill.advance_jobs(jobs, ones, ones, ones, bigs, costs) FROM "
                "(SELECT array_agg(lpad(n::text, 32, '0')::uuid), array_agg(1), array_agg(1::bigint), array_agg(1.0)"
                "   FROM generate_series(1, 100) AS n) AS s (jobs, ones, bigs, costs)",
                (),
            ),
            "complete": (
                "SELECT embedmill.complete_items(%s, (SELECT array_agg(id) FROM taken))",
                (generation,),
            ),
            "return": (
                "SELECT embedmill.return_items((SELECT array_agg(id) FROM taken), "
                "(SELECT array_agg(token) FROM taken), 'pending', 1, 5000, 'test', 'test')",
                (),
            ),
        }
        if statistics != "stale":  # ours say that all is being worked on: to look at all is right then
            steps["rescue"] = ("SELECT embedmill.rescue_items('{}')", ())
        before = rows_read(connection, generation)
        for step, (statement, parameters) in steps.items():
            cursor = connection.execute(statement, parameters)
            after = rows_read(connection, generation)
            for table, (scans, rows) in after.items():
                assert scans == before[table][0], f"{step} scans {table} (statistics: {statistics})"
                # A claim of 100 looks at the heads of three lanes; a load at the chunks of its ten items.
                assert rows - before[table][1] <= 6000, f"{step} reads too much of {table} ({statistics})"
            before = after
            if step == "claim":
                assert cursor.rowcount == CLAIMED


def rows_read(
    connection: psycopg.Connection[tuple[object, ...]], generation: int
) -> dict[str, tuple[int, int]]:
    """(sequential scans, rows fetched by index) of this transaction so far, by table."""
    rows = connection.execute(
        "SELECT relname, seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables "
        " WHERE relname IN ('embedding_queue', 'knowledge_chunks', 'ingestion_jobs', %s)",
        (f"vectors_{generation}",),
    ).fetchall()
    return {str(row[0]): (int(str(row[1])), int(str(row[2]))) for row in rows}
