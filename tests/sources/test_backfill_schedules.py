"""Walks by the clock: begun once when they are due, from the first row, and the next time is known."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import QueueConfig
from embedmill.sources.backfill_orders import (
    BackfillOrder,
    BackfillSource,
    reckon_schedules,
    schedule_backfill,
)
from embedmill.worker.sweeps import sweep
from tests.support.provider import RunningProvider
from tests.support.records import work_until_quiet
from tests.support.walks import add_notes, documents, order, run, state_of, walk


async def schedule(
    app: App, source: BackfillSource, expression: str, pace: BackfillOrder | None = None
) -> None:
    await schedule_backfill(app.database, await app.tenant_id(), source, expression, pace, actor="test")


async def make_due(app: App) -> None:
    await run(app, "UPDATE embedmill.backfills SET next_start_at = now() - interval '1 s'")


async def start_due(app: App) -> int:
    rows = await app.database.fetch("SELECT embedmill.start_backfills()")
    return int(rows[0][0])


async def test_what_is_due_is_started_once_and_the_next_time_is_known(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3)
    await schedule(app, source, "0 3 * * *", BackfillOrder(rows_per_second=1000))
    assert not (await state_of(app, source)).is_running
    assert await start_due(app) == 0
    await make_due(app)
    started = await asyncio.gather(*(start_due(app) for _ in range(4)))
    assert sorted(started) == [0, 0, 0, 1]
    assert await reckon_schedules(app.database, datetime(2026, 11, 22, 3, 0, 10, tzinfo=UTC)) == 1
    state = await state_of(app, source)
    assert state.is_running
    assert state.next_start_at == datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
    await work_until_quiet(app)
    assert len(await documents(app)) == 3


async def test_it_begins_anew_without_the_limits_of_the_walk_before_and_keeps_its_pace(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    await order(app, source, BackfillOrder(rows=2))
    await walk(app, source)
    await schedule(app, source, "@daily", BackfillOrder(rows_per_second=5000))
    await make_due(app)
    await start_due(app)
    state = await state_of(app, source)
    assert (state.is_running, state.rows_walked, state.rows_per_second) == (True, 0, 5000)
    await walk(app, source)
    assert (await state_of(app, source)).rows_read == 4


async def test_a_walk_that_is_still_at_work_goes_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    await order(app, source, BackfillOrder(rows_per_second=0.0001))
    await walk(app, source)
    await schedule(app, source, "@hourly")
    before = await state_of(app, source)
    await make_due(app)
    assert await start_due(app) == 0
    await reckon_schedules(app.database)
    after = await state_of(app, source)
    assert (after.started_at, after.rows_walked) == (before.started_at, before.rows_walked) == (
        before.started_at, 1,
    )  # fmt: skip
    assert after.next_start_at is not None


async def test_the_leader_s_sweep_starts_it(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    source = await add_notes(app, pipeline, 1)
    await schedule(app, source, "@daily")
    await make_due(app)
    outcomes = await sweep(app.database, uuid4(), QueueConfig())
    assert outcomes["start_backfills"] == "1 backfills"
    state = await state_of(app, source)
    assert state.is_running
    assert state.next_start_at is not None


async def test_minutes_are_kept_for_a_week(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await app.database.fetch(
        "INSERT INTO embedmill.embedding_minutes (minute, generation_id, tenant_id, embedded) "
        "SELECT date_trunc('minute', now()) - n * interval '1 day', %s, 1, 1 FROM unnest(ARRAY[1, 6, 8]) AS n",
        (pipeline.generation.id,),
    )
    await app.database.fetch("SELECT embedmill.drop_expired()")
    assert await app.database.fetch("SELECT count(*) FROM embedmill.embedding_minutes") == [(2,)]
