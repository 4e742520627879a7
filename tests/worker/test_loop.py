"""A worker's life: one embedder for each generation, work noticed, a stop that leaves nothing behind, pauses for
a provider that refuses and for a limit, and work that goes on afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline, pipeline_of_generation
from embedmill.database.pool import Database
from embedmill.events import CallFailed, CallSucceeded, Event
from embedmill.ingest.progress import is_settled
from embedmill.worker import loop
from embedmill.worker.loop import Worker, WorkerOptions
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.queue_rows import claim, grow_older
from tests.support.work import add_document, missing_chunks, run_worker_until_settled, stand_in_pipeline


@asynccontextmanager
async def working(
    app: App,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    calls_in_flight: int = 4,
    idle_seconds: float = 0.02,
) -> AsyncIterator[Worker]:
    """A worker that runs within the block, and is stopped at its end."""
    options = WorkerOptions(calls_in_flight=calls_in_flight, idle_seconds=idle_seconds, look_seconds=0.05)
    worker = Worker(app.database, app.provider, options, on_event=on_event)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()


async def settle(app: App, *batches: UUID) -> None:
    """Until all of these runs have ended, as the command line waits for its own."""
    for batch in batches:
        while not await is_settled(app.database, batch):
            await asyncio.sleep(0.02)


async def test_work_that_comes_while_the_worker_idles_is_noticed(app: App, pipeline: Pipeline) -> None:
    async with working(app):
        for number in range(3):
            batch = uuid4()
            await add_document(app, pipeline, f"doc {number}", ["one", f"two {number}"], batch)
            await settle(app, batch)
    assert await missing_chunks(app, pipeline) == 0
    await audit.assert_books_balance(app)


async def test_what_is_launched_in_its_own_process_is_taken_up_at_once(app: App, pipeline: Pipeline) -> None:
    """And not at the next look, which is an hour away."""
    async with working(app, idle_seconds=3600) as worker:
        for number in range(3):
            await asyncio.sleep(0.3)  # its look is over, and so is the embedder of the one before
            batch, texts = uuid4(), ["one", f"two {number}"]
            await add_document(app, pipeline, f"doc {number}", texts, batch, on_launched=worker.look)
            await settle(app, batch)
    assert await missing_chunks(app, pipeline) == 0


async def test_a_launch_of_what_has_its_vectors_calls_nobody(app: App, pipeline: Pipeline) -> None:
    batch, calls = uuid4(), list[str]()
    await add_document(app, pipeline, "doc", ["one"], batch, on_launched=lambda: calls.append("new"))
    async with working(app):
        await settle(app, batch)
    await add_document(app, pipeline, "doc", ["one"], on_launched=lambda: calls.append("same"))
    assert calls == ["new"]


async def test_one_embedder_works_on_a_generation_however_often_the_worker_is_woken(
    app: App, pipeline: Pipeline, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the first is still reading what its pipeline is."""

    async def read_slowly(database: Database, generation_id: int) -> Pipeline:
        await asyncio.sleep(0.1)
        return await pipeline_of_generation(database, generation_id)

    monkeypatch.setattr(loop, "pipeline_of_generation", read_slowly)
    provider.configure(latency_ms=20)
    batch = uuid4()
    for number in range(12):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(5)], batch)
    async with working(app, calls_in_flight=1) as worker:
        while not await is_settled(app.database, batch):
            worker.wake()
    assert provider.stats()["max_in_flight"] == 1
    await audit.assert_books_balance(app)


async def test_generations_are_worked_on_side_by_side(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """One pipeline whose provider hangs holds up no other."""
    hanging = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "hanging", dimensions=16)
    await add_document(app, hanging, "doc", ["never"])
    batch = uuid4()
    async with working(app):
        await add_document(app, pipeline, "doc", ["one", "two"], batch)
        await settle(app, batch)
    assert await missing_chunks(app, pipeline) == 0
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 0, 0)]


async def test_a_stop_writes_what_is_in_flight_gives_the_rest_back_and_signs_off(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=30)
    for number in range(30):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    begun = asyncio.Event()

    def notice(event: Event) -> None:
        if isinstance(event, CallSucceeded):
            begun.set()

    async with working(app, on_event=notice, calls_in_flight=2) as worker:
        await begun.wait()
    live = await audit.live_items(app)
    assert 0 < len(live) < 30
    assert {row[1:] for row in live} == {("pending", 0, 0)}
    assert len(await claim(app.database, pipeline.generation.id)) == len(live)
    (row,) = await app.database.fetch(
        "SELECT worker_id, status::text, stopped_at IS NOT NULL, current_work, chunks_embedded "
        "  FROM embedmill.embedding_queue_workers"
    )
    written = 300 - await missing_chunks(app, pipeline)
    assert row == (worker.identity.worker_id, "stopped", True, None, written)
    assert provider.stats()["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_a_provider_that_comes_back_finds_the_work_waiting(
    app: App, pipeline: Pipeline, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REFUSED_PAUSE_SECONDS", 0.2)
    provider.configure(api_key="another")
    batch = uuid4()
    for number in range(20):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)], batch)
    refused = asyncio.Event()

    def notice(event: Event) -> None:
        if isinstance(event, CallFailed) and event.fatal:
            refused.set()

    async with working(app, on_event=notice) as worker:
        await refused.wait()
        assert {row[1:] for row in await audit.live_items(app)} <= {("pending", 0, 0), ("processing", 0, 0)}
        provider.configure(api_key=None)
        while await missing_chunks(app, pipeline):
            await grow_older(app.database, 100)
            await asyncio.sleep(0.05)
        await settle(app, batch)
    assert worker.identity
    assert {row[:3] for row in await audit.ended_items(app)} == {("completed", 0, 0)}
    assert await audit.dead_letters(app) == []
    await audit.assert_books_balance(app)


async def test_a_generation_that_must_rest_is_left_alone_meanwhile(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(calls_per_minute=0, retry_after_seconds=120)
    for number in range(30):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    limited = asyncio.Event()
    async with working(app, on_event=lambda event: limited.set()):
        await limited.wait()
        other = await stand_in_pipeline(app, provider.base_url, "other", dimensions=32)
        provider.configure(calls_per_minute=None, dimensions=32)
        batch = uuid4()
        await add_document(app, other, "doc", ["one"], batch)
        await settle(app, batch)
    assert provider.stats()["calls_paid"] == 1
    statuses = [row[1] for row in await audit.live_items(app)]
    assert statuses.count("rate_limited") <= 4
    assert statuses.count("pending") >= 26
    assert {row[2:] for row in await audit.live_items(app)} == {(0, 0)}


async def test_a_pipeline_whose_provider_cannot_be_built_harms_no_other(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    broken = await stand_in_pipeline(app, provider.base_url, "broken", dimensions=16)
    await app.database.fetch(
        'UPDATE embedmill.generations SET spec = spec || \'{"provider": "gone"}\' WHERE id = %s',
        (broken.generation.id,),
    )
    await add_document(app, broken, "doc", ["never"])
    batch = uuid4()
    events: list[Event] = []
    async with working(app, on_event=events.append):
        await add_document(app, pipeline, "doc", ["one", "two"], batch)
        await settle(app, batch)
    fatal = [event for event in events if isinstance(event, CallFailed) and event.fatal]
    assert [event.generation_id for event in fatal] == [broken.generation.id]
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 0, 0)]


async def test_two_workers_share_a_backlog(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    provider.configure(latency_ms=10)
    batch = uuid4()
    for number in range(30):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)], batch)
    async with working(app), working(app):
        await settle(app, batch)
    assert provider.stats()["most_paid_for_one_input"] == 1
    workers = await app.database.fetch(
        "SELECT chunks_embedded > 0, status::text FROM embedmill.embedding_queue_workers"
    )
    assert workers == [(True, "stopped")] * 2
    await audit.assert_books_balance(app)


async def test_an_index_is_built_once_the_load_is_done(app: App, provider: RunningProvider) -> None:
    pipeline = await stand_in_pipeline(app, provider.base_url, dimensions=16)
    batch = uuid4()
    for number in range(4):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(300)], batch)
    worker = await run_worker_until_settled(app, batch)
    await worker.settle_indexes()
    async with working(app):
        while not await app.database.fetch(
            "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND indisvalid",
            (f"embedmill.vectors_{pipeline.generation.id}_hnsw",),
        ):
            later = uuid4()
            await add_document(app, pipeline, f"late {later}", [f"{later}"], later)
            await settle(app, later)
    await audit.assert_books_balance(app)


async def test_work_and_a_stop_do_not_wait_for_an_index_that_is_being_built(
    app: App, provider: RunningProvider
) -> None:
    """CREATE INDEX CONCURRENTLY waits for every transaction that has touched the table: here, for one of ours."""
    pipeline = await stand_in_pipeline(app, provider.base_url, dimensions=16)
    batch = uuid4()
    async with app.database.transaction() as held_up:
        await held_up.execute(
            f"LOCK TABLE embedmill.vectors_{pipeline.generation.id} IN ROW EXCLUSIVE MODE".encode()
        )
        async with working(app):
            for number in range(4):
                await add_document(
                    app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(300)], batch
                )
            await settle(app, batch)
        async with working(app):
            for number in range(3):
                later = uuid4()
                await add_document(app, pipeline, f"late {number}", [f"late {number}"], later)
                await settle(app, later)
    await audit.assert_books_balance(app)
