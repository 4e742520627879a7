"""Altering and removing table sources: what is read anew, and what becomes of the documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from embedmill.database.pipelines import Pipeline, find_pipeline, tenant_id
from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError
from embedmill.sources.table_changes import TableAlteration, alter_table, remove_table
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import (
    TableSource,
    add_table,
    find_table,
    list_tables,
)
from tests.sources.following import ACTOR, connected, noted

Connection = psycopg.Connection[tuple[Any, ...]]
CONTENT = TablePlan("$title\n\n${body}")


@pytest.fixture
def user(database: str) -> Iterator[Connection]:
    with connected(database) as connection:
        connection.execute(
            "CREATE TABLE jobs (id bigint PRIMARY KEY, title text, body text, place text, is_active boolean, n int)"
        )
        connection.execute(
            "INSERT INTO jobs SELECT g, 't', 'b', 'p', g % 4 > 0, g % 3 FROM generate_series(1, 40) g"
        )
        yield connection


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Database]:
    async with Database(database) as pool:
        yield pool


@pytest.fixture
async def pipeline(pool: Database) -> Pipeline:
    return await find_pipeline(pool, await tenant_id(pool, "default"), "default")


async def added(
    pool: Database, pipeline: Pipeline, name: str, plan: TablePlan = CONTENT, **more: Any
) -> TableSource:
    return (
        await add_table(pool, pipeline, name, plan, actor=ACTOR, **{"patience_seconds": 5, **more})
    ).source


async def test_altering_reads_anew_only_where_texts_may_differ(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    source = await added(pool, pipeline, "jobs", backfills=False)
    same = (await alter_table(pool, pipeline, source, TableAlteration(priority="low"), actor=ACTOR)).source
    assert (same.priority, same.backfill) == ("low", "not begun")
    other = (
        await alter_table(
            pool, pipeline, same, TableAlteration(template="$body", condition="is_active"), actor=ACTOR
        )
    ).source
    assert (other.columns, other.condition, other.rows, other.backfill) == (
        ("body",),
        "is_active",
        30,
        "running",
    )
    user.execute("DELETE FROM embedmill.record_changes; UPDATE jobs SET title = 'x'")
    assert noted(user) == Counter()
    with pytest.raises(ConfigurationError, match="division by zero; nothing was changed"):
        await alter_table(pool, pipeline, other, TableAlteration(condition="1 / n > 0"), actor=ACTOR)
    back = (await alter_table(pool, pipeline, other, TableAlteration(condition=""), actor=ACTOR)).source
    assert (back.condition, back.rows) == (None, 40)
    with pytest.raises(ConfigurationError, match="stand beside their chunks"):
        await alter_table(pool, pipeline, back, TableAlteration(target_column="v"), actor=ACTOR)


def documents(user: Connection, source: TableSource, count: int) -> None:
    """So many documents of a source, each with two chunks, one of them refused."""
    user.execute(
        "WITH made AS ("
        " INSERT INTO embedmill.knowledge_documents"
        "   (tenant_id, pipeline_id, record_source_id, source_type, source_id, name, chunk_count)"
        " SELECT 1, %s, %s, %s, g, g, 2 FROM generate_series(1, %s) g RETURNING id)"
        " INSERT INTO embedmill.knowledge_chunks"
        "   (tenant_id, pipeline_id, document_id, record_source_id, ordinal, start_offset, end_offset, token_count,"
        "    text_config, content_hash, error_reason, text)"
        " SELECT 1, %s, id, %s, o, 0, 1, 1, 'english', 'x', CASE o WHEN 1 THEN 'refused' END, 'x'"
        "   FROM made, generate_series(0, 1) o",
        (source.pipeline_id, source.id, source.name, count, source.pipeline_id, source.id),
    )
    user.execute(
        "UPDATE embedmill.record_sources SET documents = documents + %s WHERE id = %s", (count, source.id)
    )
    user.execute(
        "UPDATE embedmill.coverage_counters SET unembeddable = unembeddable + %s WHERE record_source_id = %s",
        (count, source.id),
    )


def counters(user: Connection) -> list[tuple[Any, ...]]:
    return user.execute(
        "SELECT record_source_id, chunks, embedded, unembeddable FROM embedmill.coverage_counters"
        " WHERE chunks <> 0 OR record_source_id = 0 ORDER BY 1"
    ).fetchall()


async def test_removing_keeps_the_documents_and_adding_again_takes_them_up(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    source = await added(pool, pipeline, "jobs")
    documents(user, source, 5)
    removed = await remove_table(pool, source, with_vectors=False, actor=ACTOR)
    assert (removed.documents_kept, removed.documents_deleted) == (5, 0)
    assert counters(user) == [(0, 10, 0, 5)]
    user.execute("INSERT INTO jobs (id) VALUES (100)")
    assert noted(user) == Counter()
    assert await list_tables(pool, 1) == []
    again = await add_table(pool, pipeline, "jobs", CONTENT, actor=ACTOR)
    assert again.notes == (
        "5 documents of this table stand already and are taken up again, with their vectors",
    )
    assert (again.source.documents, again.source.chunks, again.source.unembeddable) == (5, 10, 5)
    assert counters(user) == [(0, 0, 0, 0), (again.source.id, 10, 0, 5)]
    assert noted(user) == Counter({("T", ""): 1}), "documents whose rows went meanwhile are looked for"


async def test_removing_with_vectors_deletes_the_documents(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    source = await added(pool, pipeline, "jobs")
    documents(user, source, 3)
    removed = await remove_table(pool, source, with_vectors=True, actor=ACTOR)
    assert (removed.documents_kept, removed.documents_deleted) == (0, 3)
    for table in ("knowledge_documents", "knowledge_chunks", "backfills", "record_changes", "table_sources"):
        assert user.execute(f"SELECT count(*) FROM embedmill.{table}".encode()).fetchone() == (0,), table
    user.execute("SELECT embedmill.check_table_sources()")
    assert counters(user) == [(0, 0, 0, 0)]


async def test_a_dropped_table_can_be_removed(pool: Database, pipeline: Pipeline, user: Connection) -> None:
    await added(pool, pipeline, "jobs")
    user.execute("DROP TABLE jobs")
    source = await find_table(pool, 1, "jobs")
    assert not source.exists
    await remove_table(pool, source, with_vectors=False, actor=ACTOR)
    assert await list_tables(pool, 1) == []
