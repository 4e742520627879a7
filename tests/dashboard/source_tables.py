"""A user's table for the pages of sources, forms sent over plain HTTP, workers for a while. Owns what several of their
tests need; must not assert what a page is for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx2

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.auditor import Auditor
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.dashboard.visiting import token_in
from tests.support.records import reading_worker

REFUSED = "Failed to load resource: the server responded with a status of 422"
"""What the browser says of a form that is shown again."""


async def make_jobs(app: App, rows: int, *, blank: Sequence[int] = ()) -> None:
    """`public.jobs`: each row has a text of its own, but for the blank ones."""
    await app.database.fetch(
        "CREATE TABLE public.jobs (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL,"
        "                          is_active boolean NOT NULL DEFAULT true)"
    )
    await app.database.fetch(
        "INSERT INTO public.jobs SELECT n, CASE WHEN n = ANY (%(blank)s) THEN '' ELSE '<b>Miller</b> ' || n END,"
        "       CASE WHEN n = ANY (%(blank)s) THEN ' ' ELSE 'Grinds grain number ' || n END"
        "  FROM generate_series(1, %(rows)s::bigint) AS n",
        {"rows": rows, "blank": list(blank)},
    )


async def add_jobs(app: App, pipeline: Pipeline, *, backfills: bool = False) -> int:
    """The table as a source; its id."""
    plan = TablePlan("$title\n\n$body")
    added = await add_table(app.database, pipeline, "public.jobs", plan, backfills=backfills, actor="test")
    return added.source.id


async def send(client: httpx2.AsyncClient, page: str, address: str, **fields: str) -> httpx2.Response:
    """A form of a page, sent to an address."""
    token = token_in((await client.get(page)).text)
    return await client.post(address, data={"form_token": token, **fields})


@asynccontextmanager
async def reading(app: App) -> AsyncIterator[None]:
    """A worker that reads and embeds, for as long as the block lasts."""
    worker = reading_worker(app)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()


@asynccontextmanager
async def auditing(app: App) -> AsyncIterator[None]:
    """Somebody who carries out audits without delay, for as long as the block lasts."""
    auditor = Auditor(app.database, look_seconds=0.05)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(auditor.run())
        try:
            yield
        finally:
            auditor.stop()
