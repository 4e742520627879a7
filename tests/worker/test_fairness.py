"""Many pipelines in one worker: tenants share a provider by what they were given, nobody starves however many there
are, and a provider that hangs or refuses connections takes nobody's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import CallSucceeded, Event
from embedmill.ingest.progress import is_settled
from embedmill.worker.loop import Worker, WorkerOptions
from embedmill.worker.turns import Rests, Turns
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.work import add_document, app_on, missing_chunks, stand_in_pipeline, stored_vectors


@asynccontextmanager
async def at_work(app: App, **options: int | float) -> AsyncIterator[tuple[Worker, list[Event]]]:
    """A worker that runs within the block, and what it tells."""
    events: list[Event] = []
    chosen = WorkerOptions(**{"idle_seconds": 0.02, "calls_in_flight": 2, **options})  # type: ignore[arg-type]
    worker = Worker(app.database, app.provider, chosen, on_event=events.append)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run())
        try:
            yield worker, events
        finally:
            worker.stop()


@asynccontextmanager
async def tenant(database: str, folder: Path, app: App, slug: str) -> AsyncIterator[App]:
    """The app as another tenant has it."""
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES (%s)", (slug,))
    async with app_on(database, folder, tenant=slug) as theirs:
        yield theirs


async def settle(app: App, batch: UUID) -> None:
    while not await is_settled(app.database, batch):
        await asyncio.sleep(0.01)


async def share_quota(app: App, pipeline: Pipeline) -> None:
    """All pipelines on one account of the provider."""
    await app.database.fetch("UPDATE embedmill.pipelines SET quota_key = %s", (pipeline.quota_key,))


async def test_a_tenant_with_ten_items_completes_beside_one_with_a_backlog(
    app: App, pipeline: Pipeline, provider: RunningProvider, database: str, tmp_path: Path
) -> None:
    provider.configure(latency_ms=15)
    for number in range(40):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(100)])
    async with tenant(database, tmp_path, app, "small") as theirs:
        small = await stand_in_pipeline(theirs, provider.base_url, dimensions=16, max_inputs_per_call=10)
        await share_quota(app, pipeline)
        async with at_work(app) as (_, events):
            while sum(isinstance(event, CallSucceeded) for event in events) < 20:
                await asyncio.sleep(0.005)
            before = len(events)
            batch = uuid4()
            for number in range(10):
                await add_document(
                    theirs, small, f"doc {number}", [f"{number} {n}" for n in range(10)], batch
                )
            await settle(app, batch)
            meanwhile = events[before:]
    assert await missing_chunks(app, small) == 0
    assert await missing_chunks(app, pipeline) > 0, "the backlog was not waited for"
    calls = [event.generation_id for event in meanwhile if isinstance(event, CallSucceeded)]
    last = max(number for number, each in enumerate(calls) if each == small.generation.id)
    assert calls[:last].count(pipeline.generation.id) <= 40, "about one call of theirs for each of ours"


@pytest.mark.parametrize("embedders", [1, 3])
async def test_many_pipelines_with_a_few_items_each_are_all_served_beside_a_backlog(
    app: App, pipeline: Pipeline, provider: RunningProvider, embedders: int
) -> None:
    """The backlog has the lowest number, and would be first each time."""
    provider.configure(latency_ms=5)
    for number in range(40):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(100)])
    batch = uuid4()
    small = []
    for number in range(12):
        small.append(
            await stand_in_pipeline(
                app, provider.base_url, f"p{number}", dimensions=16, max_inputs_per_call=5
            )
        )
        await add_document(app, small[-1], "doc", [f"{n}" for n in range(12)], batch)
    async with at_work(app, embedders=embedders):
        await settle(app, batch)
        stored = len(await stored_vectors(app, pipeline))
    assert [await missing_chunks(app, each) for each in small] == [0] * 12
    assert 0 < stored < 4000, "the backlog got on, and was not waited for"
    assert {row[2:] for row in await audit.live_items(app)} == {(0, 0)}
    await audit.assert_books_balance(app)


async def test_pipelines_whose_provider_hangs_take_nobody_s_place(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for number in range(4):
            hanging = await stand_in_pipeline(
                app, f"http://127.0.0.1:{port}/v1", f"p{number}", dimensions=16, timeout_seconds=5
            )
            await add_document(app, hanging, "doc", ["never"])
        async with at_work(app, embedders=2) as (worker, _):
            while len(worker._embedders) < 2:
                await asyncio.sleep(0.01)
            batch = uuid4()
            await add_document(app, pipeline, "doc", ["one", "two"], batch)
            await settle(app, batch)
    assert await missing_chunks(app, pipeline) == 0
    assert {row[1:] for row in await audit.live_items(app)} == {("pending", 0, 0)}


async def test_a_provider_that_refuses_connections_is_named_and_delays_no_other(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    dead = await stand_in_pipeline(app, "http://127.0.0.1:9/v1", "dead", dimensions=16)
    for number in range(20):
        await add_document(app, dead, f"doc {number}", ["never", f"{number}"])
    async with at_work(app, embedders=1, calls_in_flight=8) as (worker, _):
        while dead.generation.id not in worker.troubles():
            await asyncio.sleep(0.01)
        for number in range(5):
            batch = uuid4()
            await add_document(app, pipeline, f"doc {number}", [f"{number}"], batch)
            await settle(app, batch)
        assert list(worker.troubles()) == [dead.generation.id]
        assert "cannot be reached" in worker.troubles()[dead.generation.id]
        assert {row[1:] for row in await audit.live_items(app)} == {("pending", 0, 0)}, "given back at once"
    assert await missing_chunks(app, pipeline) == 0


def test_nobody_waits_longer_than_a_round() -> None:
    turns = Turns()
    served = []
    for _ in range(30):
        chosen = turns.order(list(range(10)))[0]
        turns.take(chosen)
        served.append(chosen)
    assert served == [*range(10)] * 3


def test_the_queue_s_order_holds_within_a_round() -> None:
    turns = Turns()
    turns.take(7)
    assert turns.order([7, 5, 9]) == [5, 9, 7]
    turns.take(5)
    assert turns.order([9, 5, 7]) == [9, 5, 7]
    turns.take(9)
    assert turns.order([5, 7]) == [5, 7]


def test_a_rest_ends_by_the_clock_and_its_reason_when_the_generation_gets_on() -> None:
    rests = Rests()
    assert not rests.holds(1, 0.0)
    rests.begin(1, 10.0, "the provider is away")
    assert rests.holds(1, 9.9)
    assert not rests.holds(1, 10.0)
    assert rests.reasons() == {1: "the provider is away"}
    rests.end(1)
    rests.end(1)
    assert rests.reasons() == {}
