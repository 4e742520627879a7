"""Tables with a column for vectors, for tests: made by hand, added as sources, worked on until nothing is left. Owns an
independent look at such a column; must not ask embedmill's own tables what stands there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import numpy as np
import psycopg

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from embedmill.worker.loop import Companion, Worker, WorkerOptions
from tests.support.provider.vectors import vector_for
from tests.support.records import is_quiet
from tests.support.work import DIMENSIONS

User = psycopg.AsyncConnection[Any]

JOBS = f"""
CREATE TABLE public.jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title text NOT NULL,
    description text NOT NULL,
    company text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    salary numeric NOT NULL,
    embedding vector({DIMENSIONS})
)
"""


@asynccontextmanager
async def user_of(app: App) -> AsyncIterator[User]:
    """Somebody else's session, in autocommit mode."""
    async with await psycopg.AsyncConnection.connect(app.database.url, autocommit=True) as connection:
        yield connection


async def insert_jobs(user: User, *titles: str) -> list[int]:
    ids = []
    for title in titles:
        cursor = await user.execute(
            "INSERT INTO public.jobs (title, description, company, salary) VALUES (%s, %s, 'Mill & Co', 12.50) "
            "RETURNING id",
            (title, f"We look for a {title}."),
        )
        row = await cursor.fetchone()
        assert row is not None
        ids.append(row[0])
    return ids


async def add_column_source(
    app: App,
    pipeline: Pipeline,
    table: str = "public.jobs",
    *,
    template: str = "$title\n\n$description",
    column: str = "embedding",
    condition: str | None = None,
    adopts: bool = False,
) -> int:
    added = await add_table(
        app.database,
        pipeline,
        table,
        TablePlan(template, condition=condition, target_column=column, adopts=adopts),
        actor="test",
    )
    return added.source.id


def column_worker(app: App) -> Worker:
    """A worker that reads, embeds and writes columns."""

    def companions(worker_id: UUID) -> list[Companion]:
        return [app.record_reader(worker_id), app.column_writer()]

    return Worker(app.database, app.provider, WorkerOptions(), companions=companions)


async def owes_nothing(app: App) -> bool:
    rows = await app.database.fetch("SELECT count(*) FROM embedmill.column_debts")
    return bool(rows[0][0] == 0)


@asynccontextmanager
async def working(app: App) -> AsyncIterator[None]:
    """A worker for as long as the block takes."""
    worker = column_worker(app)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()


async def until_quiet(app: App, *, with_debts: bool = False, seconds: float = 60.0) -> None:
    """Until nothing is left to read, to embed or (but for `with_debts`) to write."""
    async with asyncio.timeout(seconds):
        while not await is_quiet(app) or not (with_debts or await owes_nothing(app)):
            await asyncio.sleep(0.02)


async def work_columns(app: App, *, seconds: float = 60.0) -> None:
    """Read, embed and write until nothing is left."""
    async with working(app):
        await until_quiet(app, seconds=seconds)


async def wait_until(app: App, query: str, expected: object = True, *, seconds: float = 30.0) -> None:
    """Until a query's first value is this."""
    async with asyncio.timeout(seconds):
        while (rows := await app.database.fetch(query)) and rows[0][0] != expected:
            await asyncio.sleep(0.02)


def as_array(text: str | None) -> np.ndarray[Any, Any] | None:
    return None if text is None else np.array([float(x) for x in text[1:-1].split(",")], np.float32)


async def assert_columns_match(
    app: App,
    query: str = "SELECT title || E'\\n\\n' || description, embedding::text FROM public.jobs",
    *,
    tolerance: float = 0.0,
) -> int:
    """Each row of (text, vector) has the provider's vector of exactly this text; how many rows."""
    rows = await app.database.fetch(query)
    for text, vector in rows:
        found = as_array(vector)
        assert found is not None, f"no vector beside {text!r}"
        assert np.abs(found - vector_for(text, DIMENSIONS)).max() <= tolerance, (
            f"another vector beside {text!r}"
        )
    return len(rows)


async def others_of(
    app: App, columns: str = "id, title, description, company, is_active, salary"
) -> Mapping[Any, Any]:
    """The other columns of each row, as they stand."""
    rows = await app.database.fetch(f"SELECT {columns} FROM public.jobs")
    return {row[0]: row for row in rows}
