"""What the pages of sources read each second reads by index, however much stands beside it and whatever the statistics
say."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import load_queries
from tests.support.records import add_feed

QUERIES = load_queries("embedmill.dashboard", "sources.sql")
DOCUMENTS, CHUNKS = 20_000, 2
BIG = {"knowledge_documents", "knowledge_chunks", "embedding_minutes", "dead_letters"}


@pytest.fixture
async def crowded(app: App, pipeline: Pipeline) -> int:
    """A feed with much beside it; its id. Nobody has analysed the tables."""
    feed = await add_feed(app, pipeline, "articles")
    values = {"pipeline_id": pipeline.id, "generation_id": pipeline.generation.id, "feed": feed}
    values |= {"documents": DOCUMENTS, "chunks": CHUNKS}
    for statement in (
        "INSERT INTO embedmill.knowledge_documents"
        " (tenant_id, pipeline_id, source_type, source_id, name, content_hash, error_reason, record_source_id)"
        " SELECT 1, %(pipeline_id)s, 'articles', n::text, n::text, sha256(n::text::bytea),"
        "        CASE WHEN n %% 1000 = 0 THEN 'empty' END, %(feed)s FROM generate_series(1, %(documents)s) AS n",
        "INSERT INTO embedmill.knowledge_chunks"
        " (tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset, token_count, text_config,"
        "  content_hash, text, error_reason, record_source_id)"
        " SELECT 1, %(pipeline_id)s, d.id, n, n, n + 1, 7, 'simple', sha256((d.id || '/' || n)::bytea), 'text',"
        "        CASE WHEN d.id %% 1500 = 0 THEN 'refused' END, %(feed)s"
        "   FROM embedmill.knowledge_documents d, generate_series(1, %(chunks)s) AS n",
        "INSERT INTO embedmill.embedding_minutes (minute, generation_id, record_source_id, tenant_id, embedded)"
        " SELECT date_trunc('minute', now()) - n * interval '1 minute', %(generation_id)s, m, 1, 1"
        "   FROM generate_series(0, 2000) AS n, generate_series(1, 20) AS m",
    ):
        await app.database.fetch(statement, values)
    return feed


async def scans(app: App, name: str, values: dict[str, Any]) -> set[str]:
    """The big tables that a query would read from one end to the other."""
    rows = await app.database.fetch(sql.SQL("EXPLAIN (FORMAT JSON) ") + QUERIES[name], values)
    found: set[str] = set()

    def look(node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG:
            found.add(node["Relation Name"])
        for child in node.get("Plans", []):
            look(child)

    look(rows[0][0][0]["Plan"])
    return found


async def test_the_page_of_a_source_reads_by_index(app: App, pipeline: Pipeline, crowded: int) -> None:
    asked: dict[str, dict[str, Any]] = {
        "examples": {"id": crowded, "reasons": ["empty", "refused"], "limit": 3},
        "minutes": {"id": crowded, "pipeline_id": pipeline.id, "minutes": 60},
        "pace": {"generation_id": pipeline.generation.id},
        "sampled_tokens": {"pipeline_id": pipeline.id, "chunk_set": 1},
    }
    for name, values in asked.items():
        assert await scans(app, name, values) == set(), name
    assert await app.database.fetch(QUERIES["sampled_tokens"], asked["sampled_tokens"]) == [(7.0,)]
    examples = await app.database.fetch(QUERIES["examples"], asked["examples"])
    assert [row[0] for row in examples] == ["empty"] * 3 + ["refused"] * 3
