"""Databases of older versions, with items waiting and being worked on, or with chunks and vectors: they migrate, and
work goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from embedmill.database.migrator import migrate, shipped_functions, shipped_migrations

ITEMS = """
INSERT INTO embedmill.embedding_queue
    (tenant_id, generation_id, document_id, first_ordinal, last_ordinal, priority, source_type, source_id)
SELECT g.tenant_id, g.id, NULL, 0, 0, (ARRAY['high', 'medium', 'low']::embedmill.queue_priority[])[n %% 3 + 1],
       'test', n::text
  FROM embedmill.generations g, generate_series(1, %(count)s) AS n
RETURNING generation_id
"""
CLAIM = "SELECT id, lease_token FROM embedmill.claim_items(%s, %s, %s, 1000, 1000, 600) ORDER BY id"
FINISH = "SELECT embedmill.finish_items(%s, %s)"


PIPELINE = """
INSERT INTO embedmill.tenants (slug) VALUES ('default');
INSERT INTO embedmill.quotas (quota_key) VALUES ('default/old');
INSERT INTO embedmill.pipelines (tenant_id, name, view_name, chunk_tokens, chunk_overlap, text_search_config,
                                 price_per_million_tokens, quota_key)
SELECT id, 'old', 'embeddings_old', 100, 10, 'simple', 5, 'default/old' FROM embedmill.tenants;
INSERT INTO embedmill.generations (tenant_id, pipeline_id, number, spec, recipe_hash, dimensions, storage)
SELECT tenant_id, id, 1, '{"provider": "openai", "model": "m", "dimensions": 2}', 'r', 2, 'vector'
  FROM embedmill.pipelines;
UPDATE embedmill.pipelines SET current_generation_id = 1;
INSERT INTO embedmill.coverage_counters (generation_id) VALUES (1);
CREATE TABLE embedmill.vectors_1 (chunk_id bigint PRIMARY KEY, input_hash bytea NOT NULL, embedding vector(2) NOT NULL);
CREATE VIEW embedmill.embeddings_old WITH (security_invoker = true) AS
SELECT c.id AS chunk_id, c.document_id, d.source_type, d.source_id, d.name, d.title,
       c.ordinal, c.start_offset, c.end_offset, c.place_kind, c.place_first, c.place_last,
       c.heading_path, c.text, c.token_count, d.metadata, v.input_hash, v.embedding
  FROM embedmill.knowledge_chunks c
  JOIN embedmill.knowledge_documents d ON d.id = c.document_id
  LEFT JOIN embedmill.vectors_1 v ON v.chunk_id = c.id
 WHERE c.pipeline_id = 1;
"""


def folder_of_before(tmp_path: Path, version: int) -> Path:
    """The SQL of a version. Of the functions, the current ones that claim and end items; the pipeline is made by hand,
    as that version made it."""
    shutil.copytree(str(shipped_migrations()), tmp_path / "migrations")
    for file in (tmp_path / "migrations").glob("*.sql"):
        if int(file.name[:4]) > version:
            file.unlink()
    (tmp_path / "functions").mkdir()
    for name in ("10_tenants.sql", "15_config.sql", "30_claiming.sql"):
        shutil.copy(str(shipped_functions() / name), tmp_path / "functions" / name)
    (tmp_path / "functions" / "90_pipeline.sql").write_text(PIPELINE)
    return tmp_path


def older(url: str, tmp_path: Path, version: int) -> psycopg.Connection[tuple[Any, ...]]:
    folder = folder_of_before(tmp_path, version)
    connection = psycopg.connect(url, autocommit=True)
    migrate(connection, folder / "migrations", folder / "functions")
    return connection


@pytest.fixture
def before(empty_database: str, tmp_path: Path) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Of version 3."""
    with older(empty_database, tmp_path, 3) as connection:
        yield connection


@pytest.fixture
def before_records(empty_database: str, tmp_path: Path) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Of version 4."""
    with older(empty_database, tmp_path, 4) as connection:
        yield connection


def test_live_items_and_leases_of_before_go_on(before: psycopg.Connection[tuple[Any, ...]]) -> None:
    generation = before.execute(ITEMS, {"count": 9}).fetchall()[0][0]
    held = before.execute(CLAIM, (uuid4(), generation, 4)).fetchall()
    assert len(held) == 4
    live = "SELECT to_jsonb(q) FROM embedmill.embedding_queue q ORDER BY id"
    rows = before.execute(live).fetchall()

    assert "0004_lean_queue.sql" in migrate(before).applied
    assert before.execute(live).fetchall() == rows, "no item is touched"

    done = before.execute(FINISH, ([row[0] for row in held], [row[1] for row in held])).fetchall()
    assert sorted(done[0][0]) == [row[0] for row in held], "a lease of before is good"
    taken = []
    while one := before.execute(CLAIM, (uuid4(), generation, 1)).fetchall():
        taken += one
    assert not {row[0] for row in taken} & {row[0] for row in held}
    assert len(taken) == 5
    for item, token in taken:
        assert before.execute(FINISH, ([item], [token])).fetchall() == [([item],)]
    ended = before.execute("SELECT count(*), count(DISTINCT id) FROM embedmill.embedding_queue_history")
    assert ended.fetchall() == [(9, 9)]


def test_a_pipeline_paused_before_stays_paused(before: psycopg.Connection[tuple[Any, ...]]) -> None:
    generation = before.execute(ITEMS, {"count": 3}).fetchall()[0][0]
    before.execute("UPDATE embedmill.pipelines SET paused_at = now()")
    migrate(before)
    assert before.execute(CLAIM, (uuid4(), generation, 1)).fetchall() == []
    before.execute("UPDATE embedmill.pipelines SET paused_at = NULL")
    assert len(before.execute(CLAIM, (uuid4(), generation, 1)).fetchall()) == 1


@pytest.mark.parametrize(
    "change",
    [
        "status = 'processing'",
        "status = 'completed'",
        "lease_token = 1",
        "worker_id = gen_random_uuid()",
        "status = 'processing', lease_token = 1",
        "status = 'processing', worker_id = gen_random_uuid()",
        "status = 'rate_limited', lease_token = 1, worker_id = gen_random_uuid()",
    ],
)
def test_the_new_check_refuses_what_the_old_one_refused(
    before: psycopg.Connection[tuple[Any, ...]], change: str
) -> None:
    before.execute(ITEMS, {"count": 1})
    for _ in range(2):
        with pytest.raises(psycopg.errors.CheckViolation, match="embedding_queue_check"):
            before.execute(f"UPDATE embedmill.embedding_queue SET {change}".encode())
        migrate(before)


CHUNKS = """
INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name, chunk_count)
SELECT 1, 1, 'file', n::text, n::text, 2 FROM generate_series(1, 3) AS n;
INSERT INTO embedmill.knowledge_document_texts (document_id, tenant_id, text)
SELECT id, 1, 'one two' FROM embedmill.knowledge_documents;
INSERT INTO embedmill.knowledge_chunks (tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset,
                                        token_count, text_config, content_hash, place_kind, place_first, place_last,
                                        text)
SELECT 1, 1, d.id, n, 4 * n, 4 * n + 3, 3, 'simple', 'x', 'page', n::text, n::text, substr('one two', 4 * n + 1, 3)
  FROM embedmill.knowledge_documents d, generate_series(0, 1) AS n;
INSERT INTO embedmill.vectors_1 SELECT id, 'x', '[1,2]' FROM embedmill.knowledge_chunks WHERE ordinal = 0;
UPDATE embedmill.coverage_counters SET chunks = 6, embedded = 3;
"""


def test_chunks_of_before_are_those_of_the_first_plan_and_a_next_generation_can_be_made(
    before_records: psycopg.Connection[tuple[Any, ...]],
) -> None:
    connection = before_records
    connection.execute(CHUNKS)
    assert "0005_records.sql" in migrate(connection).applied
    plans = "SELECT id, chunk_set, chunk_tokens, chunk_overlap, price_per_million_tokens FROM embedmill.generations"
    assert connection.execute(plans).fetchall() == [(1, 1, 100, 10, 5)]
    counters = "SELECT generation_id, record_source_id, chunks, embedded FROM embedmill.coverage_counters ORDER BY 1, 2"
    assert connection.execute(counters).fetchall() == [(1, 0, 6, 3)]

    make = "SELECT embedmill.start_build(1, '{\"model\": \"n\"}', 3, 'vector', %s, 0, NULL, NULL)"
    assert connection.execute(make, (100 // 2,)).fetchall() == [(2,)]
    assert connection.execute("SELECT embedmill.build_step(2, 100, 100)").fetchall() == [("walked",)]
    stale = connection.execute(
        "SELECT chunk_places, body FROM embedmill.stale_documents(1, 2, 10)"
    ).fetchall()
    assert stale == [('[["page", "0", "0", 0, 3], ["page", "1", "1", 4, 7]]', "one two")] * 3
    connection.execute(
        "INSERT INTO embedmill.knowledge_chunks (tenant_id, pipeline_id, document_id, chunk_set, ordinal, "
        "    start_offset, end_offset, token_count, text_config, content_hash, text) "
        "VALUES (1, 1, 1, 2, 0, 0, 7, 4, 'simple', 'y', 'one two')"
    )
    assert connection.execute(counters).fetchall() == [(1, 0, 6, 3), (2, 0, 1, 0)]
    seen = connection.execute("SELECT count(*), count(embedding) FROM embedmill.embeddings_old")
    assert seen.fetchall() == [(6, 3)], "the view shows the chunks of its own plan only"
