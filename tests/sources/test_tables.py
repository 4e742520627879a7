"""Adding table sources, pausing and resuming them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from embedmill.database.pipelines import Pipeline, find_pipeline, tenant_id
from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError, ConflictError
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import (
    TableSource,
    add_table,
    count_rows,
    find_table,
    list_tables,
    pause_table,
    resume_table,
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


async def test_a_table_that_was_added_is_counted_and_its_backfill_begins(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    plan = TablePlan("$title $$ $body", condition="is_active", metadata_columns=("place",), priority="high")
    source = await added(pool, pipeline, "jobs", plan)
    assert (source.name, source.rows, source.backfill, source.trouble) == ("public.jobs", 30, "running", None)
    assert (source.columns, source.metadata_columns, source.condition) == (
        ("title", "body"),
        ("place",),
        "is_active",
    )
    assert (source.key_columns, source.key_types, source.priority) == (("id",), ("bigint",), "high")
    assert await list_tables(pool, 1) == [source]
    assert [
        await find_table(pool, 1, name) for name in ("jobs", "public.jobs", '"public"."jobs"', "JOBS")
    ] == [source] * 4
    user.execute("UPDATE jobs SET title = 'x' WHERE id = 1")
    assert noted(user) == Counter({("U", "1"): 1})
    assert user.execute("SELECT action, subject, actor FROM embedmill.audit_log").fetchall() == [
        ("table.add", "public.jobs", ACTOR)
    ]


async def test_rows_written_while_it_is_added_are_counted_once(
    pool: Database, pipeline: Pipeline, user: Connection, database: str
) -> None:
    """The count's snapshot tells which notes it has seen already."""
    with connected(database) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO jobs (id) VALUES (100)")
        adding = asyncio.create_task(added(pool, pipeline, "jobs"))
        await asyncio.sleep(0)
        while not user.execute("SELECT FROM pg_locks WHERE NOT granted").rowcount:
            await asyncio.sleep(0.01)
        writer.execute("COMMIT")
        source = await adding
        assert source.rows == 41
        writer.execute("BEGIN; INSERT INTO jobs (id) VALUES (101)")
        assert await count_rows(pool, source.id) == 41
        writer.execute("COMMIT")
    counted = (
        "SELECT pg_visible_in_snapshot(xact, counted_at)"
        " FROM embedmill.record_changes JOIN embedmill.table_sources USING (record_source_id)"
    )
    assert user.execute(counted).fetchall() == [(False,)]
    await count_rows(pool, source.id)
    assert user.execute(counted).fetchall() == [(True,)]


async def test_a_held_table_is_told_of_and_left_as_it_was(
    pool: Database, pipeline: Pipeline, user: Connection, database: str
) -> None:
    with connected(database) as writer, writer.transaction():
        writer.execute("SET application_name = 'slow report'; UPDATE jobs SET n = 1")
        with pytest.raises(ConflictError, match=r"public.jobs is held .*slow report, process \d+, for \d+ s"):
            await added(pool, pipeline, "jobs", patience_seconds=0.1)
    assert await list_tables(pool, 1) == []
    assert (
        user.execute("SELECT FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'embedmill%'").rowcount
        == 0
    )
    await added(pool, pipeline, "jobs")


async def test_a_condition_that_fails_on_a_row_there_is_refused_and_leaves_nothing(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    with pytest.raises(ConfigurationError, match=r"fails on some row of public.jobs: division by zero"):
        await added(pool, pipeline, "jobs", TablePlan("$title", condition="1 / n > 0"))
    assert await list_tables(pool, 1) == []
    assert user.execute("SELECT FROM pg_trigger WHERE tgname LIKE 'embedmill%'").rowcount == 0


async def test_adding_twice_is_refused(pool: Database, pipeline: Pipeline, user: Connection) -> None:
    await added(pool, pipeline, "jobs")
    with pytest.raises(ConflictError, match=r"`embedmill table alter public.jobs`"):
        await added(pool, pipeline, "public.jobs")


async def test_a_paused_table_still_notes_and_resuming_completes_what_was_cut_off(
    pool: Database, pipeline: Pipeline, user: Connection
) -> None:
    source = await added(pool, pipeline, "jobs")
    paused = await pause_table(pool, source, actor=ACTOR)
    assert paused.paused_at is not None
    user.execute("DELETE FROM jobs WHERE id = 1")
    user.execute(
        "UPDATE embedmill.record_sources SET rows = NULL; UPDATE embedmill.table_sources SET counted_at = NULL"
    )
    resumed = await resume_table(pool, paused, actor=ACTOR)
    assert (resumed.paused_at, resumed.rows, resumed.changes) == (None, 39, 1)
