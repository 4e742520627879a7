"""A database that drops its connections: whatever was under way is made again, what was paid for is written, and
nothing is counted twice."""

from __future__ import annotations

import asyncio

import psycopg

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import CallSucceeded
from embedmill.ingest.progress import coverage
from tests.embed.desk import Run, embed_until_idle
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.work import add_document, missing_chunks

KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


async def test_connections_cut_at_any_moment_lose_nothing_and_cost_nothing_twice(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=3, latency_jitter_ms=6)
    for number in range(50):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(12)] + ["in all"])
    run = Run(app, pipeline, calls_in_flight=6)
    running = asyncio.create_task(run(seconds=60))
    for calls in range(3, 27, 4):
        while len(run.of(CallSucceeded)) < calls and not running.done():
            await asyncio.sleep(0.001)
        await cut_all(app)
    await running
    await embed_until_idle(app, pipeline)
    assert await missing_chunks(app, pipeline) == 0
    assert provider.stats()["most_paid_for_one_input"] == 1
    assert (await coverage(app.database, pipeline.generation.id)).embedded == 650
    assert {row[:2] for row in await audit.ended_items(app)} == {("completed", 0)}
    assert {job[1] for job in await audit.newest_jobs(app)} == {"completed"}
    (row,) = await app.database.fetch("SELECT sum(inputs) FROM embedmill.llm_usage_log WHERE error IS NULL")
    assert row[0] == provider.stats()["inputs_paid"]
    await audit.assert_books_balance(app)


async def cut_all(app: App) -> None:
    """From a connection that is not the pool's, which cuts all of the pool's."""
    async with await psycopg.AsyncConnection.connect(app.database.url, autocommit=True) as connection:
        await connection.execute(KILL)
