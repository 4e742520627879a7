"""Embedding without the queue: when it is off or refuses a document, the ingest does it itself and loses nothing."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import numpy as np
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.direct import DirectEmbedder
from embedmill.events import CallFailed, ChunkRefused, Event, VectorsReused
from embedmill.ingest.progress import coverage, is_settled
from embedmill.ingest.storing import Launched
from embedmill.queue.config import set_value
from tests.support import audit
from tests.support.provider import RunningProvider, vector_for
from tests.support.work import (
    DIMENSIONS,
    add_document,
    missing_chunks,
    run_worker_until_settled,
    stored_vectors,
)

REFUSE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no more items today'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON embedmill.embedding_queue FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""


class Direct:
    """A direct embedder with its events."""

    def __init__(self, app: App, pipeline: Pipeline) -> None:
        self.events: list[Event] = []
        self._embedder = DirectEmbedder(
            app.database, pipeline, app.provider, worker_id=uuid4(), on_event=self.events.append
        )

    async def __call__(self, *launched: Launched) -> None:
        async with self._embedder:
            for one in launched:
                await self._embedder.embed(one.document_id, one.job_id)

    async def at_once(self, *launched: Launched) -> None:
        async with self._embedder:
            await asyncio.gather(*(self._embedder.embed(one.document_id, one.job_id) for one in launched))


async def turn_off(app: App) -> None:
    await set_value(app.database, "queue_enabled", "false", actor="test")


async def job_row(app: App, job_id: UUID) -> tuple[object, ...]:
    """(status, embedded, failed, error message)"""
    (row,) = await app.database.fetch(
        "SELECT status::text, embedded_chunks, failed_chunks, error_message "
        "  FROM embedmill.ingestion_jobs WHERE id = %s",
        (job_id,),
    )
    return row


async def assert_vectors_are_those_of_their_texts(app: App, pipeline: Pipeline) -> None:
    for _, text, vector in await stored_vectors(app, pipeline):
        assert np.abs(vector - vector_for(text, DIMENSIONS)).max() < 1e-6


@pytest.mark.parametrize("why", ["the queue is off", "enqueueing fails"])
async def test_what_the_queue_does_not_take_is_embedded_all_the_same(
    app: App, pipeline: Pipeline, provider: RunningProvider, why: str
) -> None:
    if why == "the queue is off":
        await turn_off(app)
    else:
        async with app.database.connection() as connection:
            await connection.execute(REFUSE)
    batch = uuid4()
    first = await add_document(app, pipeline, "a", [f"text {n}" for n in range(33)], batch)
    second = await add_document(app, pipeline, "b", ["text 1", "something else"], batch)
    assert first.direct_reason is not None
    assert (
        "queue_enabled is false" if why == "the queue is off" else "no more items today"
    ) in first.direct_reason
    assert await audit.live_items(app) == []
    direct = Direct(app, pipeline)
    await direct(first, second)
    assert await is_settled(app.database, batch)
    assert await missing_chunks(app, pipeline) == 0
    assert await job_row(app, first.job_id) == ("completed", 33, 0, None)
    await assert_vectors_are_those_of_their_texts(app, pipeline)
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded) == (35, 35)
    assert provider.stats()["most_paid_for_one_input"] == 1
    assert sum(event.vectors for event in direct.events if isinstance(event, VectorsReused)) == 1
    await audit.assert_books_balance(app)


async def test_an_enqueue_that_goes_well_is_not_direct(app: App, pipeline: Pipeline) -> None:
    assert (await add_document(app, pipeline, "a", ["text"])).direct_reason is None


async def test_documents_at_once_share_the_provider(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await turn_off(app)
    launched = [
        await add_document(app, pipeline, f"doc {n}", [f"{n} {m}" for m in range(12)]) for n in range(6)
    ]
    await Direct(app, pipeline).at_once(*launched)
    assert await missing_chunks(app, pipeline) == 0
    await assert_vectors_are_those_of_their_texts(app, pipeline)
    await audit.assert_books_balance(app)


async def test_a_refused_text_is_buried_and_the_rest_goes_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await turn_off(app)
    provider.configure(poison="POISON")
    launched = await add_document(app, pipeline, "a", [*(f"text {n}" for n in range(17)), "POISON"])
    direct = Direct(app, pipeline)
    await direct(launched)
    assert await job_row(app, launched.job_id) == ("completed", 17, 1, None)
    assert len([event for event in direct.events if isinstance(event, ChunkRefused)]) == 1
    ((reason, _, message),) = await audit.dead_letters(app)
    assert reason == "input_rejected"
    assert message
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.embedded, covered.unembeddable) == (17, 1)


async def test_limits_and_short_outages_are_waited_out(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await turn_off(app)
    provider.configure(faults=["429", "500", "drop"], retry_after_seconds=0.05)
    launched = await add_document(app, pipeline, "a", [f"text {n}" for n in range(12)])
    await Direct(app, pipeline)(launched)
    assert await job_row(app, launched.job_id) == ("completed", 12, 0, None)
    await audit.assert_books_balance(app)


async def test_a_provider_that_refuses_us_fails_the_jobs_with_its_words_and_launching_again_goes_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await turn_off(app)
    provider.configure(api_key="another")
    launched = [await add_document(app, pipeline, f"doc {n}", [f"text {n}"]) for n in range(3)]
    direct = Direct(app, pipeline)
    await direct(*launched)
    assert provider.stats()["calls"] == 1
    assert any(isinstance(event, CallFailed) and event.fatal for event in direct.events)
    for one in launched:
        status, *_, message = await job_row(app, one.job_id)
        assert status == "failed"
        assert "401" in str(message)
    provider.configure(api_key=None)
    again = [await add_document(app, pipeline, f"doc {n}", [f"text {n}"]) for n in range(3)]
    assert [one.job_id for one in again] == [one.job_id for one in launched]
    await Direct(app, pipeline)(*again)
    assert await missing_chunks(app, pipeline) == 0


async def test_a_job_cancelled_meanwhile_stops_within_a_call_and_keeps_what_is_done(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await turn_off(app)
    provider.configure(latency_ms=50)
    launched = await add_document(app, pipeline, "a", [f"text {n}" for n in range(200)])
    working = asyncio.create_task(Direct(app, pipeline)(launched))
    while (await job_row(app, launched.job_id))[1] == 0:
        await asyncio.sleep(0.01)
    await app.database.fetch("SELECT embedmill.cancel_document_items(%s, 'enough')", (launched.document_id,))
    await working
    status, embedded, _, message = await job_row(app, launched.job_id)
    assert (status, message) == ("cancelled", "enough")
    assert 0 < len(await stored_vectors(app, pipeline)) < 200
    assert embedded == len(await stored_vectors(app, pipeline))
    await assert_vectors_are_those_of_their_texts(app, pipeline)


async def test_newer_content_saved_meanwhile_is_not_given_vectors_of_the_older(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await turn_off(app)
    provider.configure(latency_ms=100)
    older = await add_document(app, pipeline, "a", [f"old {n}" for n in range(40)])
    working = asyncio.create_task(Direct(app, pipeline)(older))
    while provider.stats()["in_flight"] == 0:
        await asyncio.sleep(0.01)
    newer = await add_document(app, pipeline, "a", [f"new {n}" for n in range(20)])
    await working
    await Direct(app, pipeline)(newer)
    assert (await job_row(app, older.job_id))[0] == "cancelled"
    assert await job_row(app, newer.job_id) == ("completed", 20, 0, None)
    assert await missing_chunks(app, pipeline) == 0
    assert {text for _, text, _ in await stored_vectors(app, pipeline)} == {f"new {n}" for n in range(20)}
    await assert_vectors_are_those_of_their_texts(app, pipeline)
    covered = await coverage(app.database, pipeline.generation.id)
    assert (covered.chunks, covered.embedded) == (20, 20)


async def test_when_the_queue_is_on_again_launching_hands_the_rest_over(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await turn_off(app)
    await add_document(app, pipeline, "a", ["one", "two"])
    await set_value(app.database, "queue_enabled", None, actor="test")
    batch = uuid4()
    launched = await add_document(app, pipeline, "a", ["one", "two"], batch)
    assert (launched.direct_reason, launched.enqueued_chunks) == (None, 2)
    await run_worker_until_settled(app, batch)
    assert await missing_chunks(app, pipeline) == 0


async def test_who_ends_it_waits_for_the_response_that_is_paid_for(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    launched = await add_document(app, pipeline, "long", [f"text {n}" for n in range(30)])
    await app.database.fetch("DELETE FROM embedmill.embedding_queue")
    provider.configure(latency_ms=500)
    async with app.direct_embedder(pipeline, worker_id=uuid4(), on_event=lambda event: None) as direct:
        task = asyncio.create_task(direct.embed(launched.document_id, launched.job_id))
        while provider.stats()["in_flight"] == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert provider.stats()["inputs_paid"] == 10
    assert len(await stored_vectors(app, pipeline)) == 10
    assert await app.database.fetch("SELECT sum(inputs) FROM embedmill.llm_usage_log") == [(10,)]
