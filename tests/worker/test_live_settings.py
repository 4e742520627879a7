"""Settings taken up while the worker runs: the switch of the queue, the size of a claim, the delay of a 429."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import CallSucceeded, Event
from embedmill.ingest.progress import is_settled
from embedmill.queue.config import set_value
from embedmill.worker.loop import Worker, WorkerOptions
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.work import add_document, missing_chunks, stored_vectors

OPTIONS = WorkerOptions(calls_in_flight=2, idle_seconds=0.02, look_seconds=0.02)


async def test_a_disabled_queue_is_left_in_order_and_taken_up_again_where_it_was(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=20)
    batch = uuid4()
    for number in range(40):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)], batch)
    begun = asyncio.Event()

    def notice(event: Event) -> None:
        if isinstance(event, CallSucceeded):
            begun.set()

    worker = Worker(app.database, app.provider, OPTIONS, on_event=notice)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        await begun.wait()
        await set_value(app.database, "queue_enabled", "false", actor="test")
        # Between two claims all are pending, too: only behind its next look the worker knows.
        await asyncio.sleep(5 * OPTIONS.look_seconds)
        while {row[1] for row in await audit.live_items(app)} != {"pending"}:
            await asyncio.sleep(0.01)
        stored, calls = len(await stored_vectors(app, pipeline)), provider.stats()["calls"]
        assert 0 < stored < 400
        worker.wake()
        await asyncio.sleep(0.2)  # ten polls: there is no event to wait for where nothing must happen
        assert provider.stats()["calls"] == calls
        await set_value(app.database, "queue_enabled", None, actor="test")
        while not await is_settled(app.database, batch) or await missing_chunks(app, pipeline):
            await asyncio.sleep(0.01)
        worker.stop()
    assert {row[:3] for row in await audit.ended_items(app)} == {("completed", 0, 0)}
    assert provider.stats()["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_a_smaller_batch_size_holds_for_what_is_claimed_from_now_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """One item a claim, and one text an item: a call is full only after many claims."""
    provider.configure(latency_ms=5)
    worker = Worker(app.database, app.provider, OPTIONS)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        await set_value(app.database, "batch_size", "1", actor="test")
        await set_value(app.database, "lease_seconds", "77", actor="test")
        batch = uuid4()
        for number in range(30):
            await add_document(app, pipeline, f"doc {number}", [f"{number}"], batch)
        deadlines = []
        while not await is_settled(app.database, batch):
            deadlines += await app.database.fetch(
                "SELECT lease_deadline < now() + interval '78 s' FROM embedmill.embedding_queue "
                " WHERE status = 'processing'"
            )
        worker.stop()
    assert set(deadlines) == {(True,)}
    assert await missing_chunks(app, pipeline) == 0
