"""Beside the work: one leader sweeps and each tick once, settings are taken up, a worker is drained, troubles told."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import QueueConfig, set_value
from embedmill.worker.loop import Worker, WorkerOptions
from embedmill.worker.sweeps import resign, sweep
from tests.support.provider import RunningProvider
from tests.support.work import add_document

QUICK = WorkerOptions(calls_in_flight=2, idle_seconds=0.02, look_seconds=0.02)
CONFIG = QueueConfig()


async def leader(app: App) -> tuple[UUID, int]:
    ((worker_id, term),) = await app.database.fetch(
        "SELECT worker_id, term FROM embedmill.sweep_leader WHERE expires_at > clock_timestamp()"
    )
    return worker_id, term


async def let_the_lead_run_out(app: App) -> None:
    await app.database.fetch("UPDATE embedmill.sweep_leader SET expires_at = now() - interval '1 s'")


async def forget_ticks(app: App) -> None:
    """As if the next period of every task had begun."""
    await app.database.fetch("DELETE FROM embedmill.sweeps")


async def test_one_leads_and_keeps_its_term_and_another_waits(app: App) -> None:
    first, second = uuid4(), uuid4()
    assert set(await sweep(app.database, first, CONFIG)) == {
        "fold_counts",
        "complete_batches",
        "sweep_budgets",
        "fail_held_up",
        "check_tables",
        "start_backfills",
        "watch_alerts",
        "drop_expired",
        "make_partitions",
        "clean_up",
    }
    assert await leader(app) == (first, 1)
    await forget_ticks(app)
    assert await sweep(app.database, second, CONFIG) == {}
    assert await sweep(app.database, first, CONFIG) != {}
    assert await leader(app) == (first, 1)


async def test_a_silent_leader_is_replaced_in_a_new_term_and_one_that_resigns_at_once(app: App) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    await sweep(app.database, first, CONFIG)
    await let_the_lead_run_out(app)
    await sweep(app.database, second, CONFIG)
    assert await leader(app) == (second, 2)
    await resign(app.database, second)
    await sweep(app.database, third, CONFIG)
    assert await leader(app) == (third, 3)


async def test_a_leader_of_an_older_term_begins_nothing_any_more(app: App) -> None:
    first, second = uuid4(), uuid4()
    await sweep(app.database, first, CONFIG)
    await let_the_lead_run_out(app)
    await sweep(app.database, second, CONFIG)
    await forget_ticks(app)
    rows = await app.database.fetch("SELECT embedmill.run_sweep('clean_up', 60, %s, 1)", (first,))
    assert rows == [(None,)]
    rows = await app.database.fetch("SELECT embedmill.run_sweep('clean_up', 60, %s, 2)", (second,))
    assert rows != [(None,)]


async def test_each_tick_happens_once_though_its_leader_looks_again(app: App) -> None:
    me = uuid4()
    await sweep(app.database, me, CONFIG)
    assert "clean_up" not in await sweep(app.database, me, CONFIG)
    rows = await app.database.fetch("SELECT task, count(*) FROM embedmill.sweeps GROUP BY task ORDER BY task")
    # The others have another tick every few seconds.
    assert [row for row in rows if row[0] in {"clean_up", "make_partitions"}] == [
        ("clean_up", 1),
        ("make_partitions", 1),
    ]


async def test_a_drained_worker_stops_in_order(app: App, pipeline: Pipeline) -> None:
    worker = Worker(app.database, app.provider, QUICK)
    async with asyncio.timeout(20):
        running = asyncio.create_task(worker.run())
        while not await app.database.fetch("SELECT 1 FROM embedmill.embedding_queue_workers"):
            await asyncio.sleep(0.01)
        await app.database.fetch("UPDATE embedmill.embedding_queue_workers SET drain_requested_at = now()")
        await running
    assert await app.database.fetch("SELECT status::text FROM embedmill.embedding_queue_workers") == [
        ("stopped",)
    ]


async def test_a_worker_that_stops_gives_up_the_lead(app: App, pipeline: Pipeline) -> None:
    worker = Worker(app.database, app.provider, QUICK)
    async with asyncio.timeout(20):
        running = asyncio.create_task(worker.run())
        while not await app.database.fetch("SELECT 1 FROM embedmill.sweeps"):
            await asyncio.sleep(0.01)
        assert (await leader(app))[0] == worker.identity.worker_id
        worker.stop()
        await running
    assert (
        await app.database.fetch("SELECT 1 FROM embedmill.sweep_leader WHERE expires_at > clock_timestamp()")
        == []
    )


async def test_a_changed_heartbeat_interval_is_beaten_by_the_running_worker(
    app: App, pipeline: Pipeline
) -> None:
    worker = Worker(app.database, app.provider, QUICK)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        await set_value(app.database, "worker_heartbeat_interval_ms", "150", actor="test")
        while await app.database.fetch(
            "SELECT heartbeat_interval_ms FROM embedmill.embedding_queue_workers"
        ) != [(150,)]:
            await asyncio.sleep(0.01)
        worker.stop()


async def test_why_a_pipeline_does_not_get_on_is_told_at_once_and_explained(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(api_key="another")
    await add_document(app, pipeline, "doc", ["text"])
    worker = Worker(app.database, app.provider, QUICK)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        while not await app.database.fetch(
            "SELECT 1 FROM embedmill.embedding_queue_workers WHERE troubles ? %s",
            (str(pipeline.generation.id),),
        ):
            await asyncio.sleep(0.01)
        rows = await app.database.fetch(
            "SELECT x.reason, x.explanation FROM embedmill.embedding_queue q, embedmill.explain_item(q.id) x"
        )
        worker.stop()
    told = dict(rows)
    assert "401" in told["provider"]
    assert "backoff" in told
