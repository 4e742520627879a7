"""A stop: what is in flight is written, the rest goes back at once and unharmed, whatever the embedder is at."""

from __future__ import annotations

import asyncio

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.events import CallSucceeded, Event, VectorsReused
from tests.embed.desk import Run
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.queue_rows import claim
from tests.support.work import add_document, missing_chunks, stored_vectors


async def test_calls_in_flight_are_written_and_the_rest_goes_back_untouched(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=50)
    for number in range(40):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(5)])
    run = Run(app, pipeline, calls_in_flight=2, on_event=lambda event: stop_at_the_first_success(run, event))
    await run()
    stored = len(await stored_vectors(app, pipeline))
    assert 10 <= stored <= 40
    assert provider.stats()["inputs_paid"] == stored
    live = await audit.live_items(app)
    assert {row[1:] for row in live} == {("pending", 0, 0)}
    assert len(await claim(app.database, pipeline.generation.id)) == len(live), "they wait for nothing"
    await audit.assert_books_balance(app)


async def test_what_a_stop_left_is_finished_by_the_next_without_paying_again(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=20)
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(120)])
    run = Run(app, pipeline, calls_in_flight=2, on_event=lambda event: stop_at_the_first_success(run, event))
    await run()
    assert 0 < await missing_chunks(app, pipeline) < 120
    await Run(app, pipeline)()
    assert await missing_chunks(app, pipeline) == 0
    assert provider.stats()["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_a_long_stretch_of_reuse_shows_its_progress_and_can_be_stopped(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """No call is ever made here: a backlog of copies must not run to its end in one breath."""
    texts = [f"text {n}" for n in range(10)]
    await add_document(app, pipeline, "first", texts)
    await Run(app, pipeline)()
    for number in range(60):
        await add_document(app, pipeline, f"copy {number}", texts)
    run = Run(app, pipeline, on_event=lambda event: stop_at_the_first_success(run, event))
    await run()
    assert len(run.of(VectorsReused)) == 1
    live = await audit.live_items(app)
    assert len(live) > 40
    assert {row[1:] for row in live} == {("pending", 0, 0)}
    await audit.assert_books_balance(app)


async def test_an_embedder_stopped_before_it_began_takes_nothing(app: App, pipeline: Pipeline) -> None:
    await add_document(app, pipeline, "doc", ["one"])
    run = Run(app, pipeline)
    run.embedder.stop()
    async with asyncio.timeout(5):
        await run()
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 0, 0)]


def stop_at_the_first_success(run: Run, event: Event) -> None:
    if isinstance(event, CallSucceeded | VectorsReused):
        run.embedder.stop()
