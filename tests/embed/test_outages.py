"""A provider that is down, hangs, drops or answers 5xx: waited for within the slot, then by the queue; nothing is
written twice and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ProviderUnavailableError
from embedmill.events import CallFailed, CallSucceeded, ItemsEnded
from embedmill.ingest.progress import batch_progress
from embedmill.ports import EmbeddingResponse, ProviderLimits, Purpose
from tests.embed.desk import Run, embed_until_idle
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.queue_rows import grow_older
from tests.support.work import add_document, missing_chunks, stand_in_pipeline

TEXTS = [f"text {n}" for n in range(10)]


@pytest.mark.parametrize("fault", ["500", "502", "503", "drop", "drop_after", "drop_mid", "hang"])
async def test_a_short_outage_is_waited_out_in_the_slot_at_no_cost_of_an_attempt(
    app: App, provider: RunningProvider, fault: str
) -> None:
    pipeline = await stand_in_pipeline(
        app, provider.base_url, dimensions=16, max_inputs_per_call=10, timeout_seconds=0.3
    )
    await add_document(app, pipeline, "doc", TEXTS)
    provider.configure(faults=[fault, fault])
    run = await Run(app, pipeline)()
    assert await missing_chunks(app, pipeline) == 0
    assert await audit.ended_items(app) == [("completed", 0, 0, None)]
    assert len(run.of(CallFailed)) == 2
    await audit.assert_books_balance(app)


async def test_every_call_is_on_the_books_with_what_it_may_have_cost(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    provider.configure(faults=["500", "drop_after"])
    await Run(app, pipeline)()
    rows = await app.database.fetch(
        "SELECT inputs, input_tokens > 0, error IS NULL FROM embedmill.llm_usage_log ORDER BY id"
    )
    # A 500 charges nothing, a connection that broke after the question may have been paid.
    assert rows == [(10, False, False), (10, True, False), (10, True, True)]
    assert provider.stats()["inputs_paid"] == 20


async def test_an_outage_that_outlasts_the_slot_costs_an_attempt_and_then_goes_on(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    batch = uuid4()
    await add_document(app, pipeline, "doc", TEXTS, batch)
    provider.configure(fail_rate_500=1.0)
    await Run(app, pipeline)()
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 1, 0)]
    provider.configure(fail_rate_500=0.0)
    await grow_older(app.database, 1000)
    await Run(app, pipeline)()
    assert await missing_chunks(app, pipeline) == 0
    assert (await batch_progress(app.database, batch)).live_jobs == 0
    assert provider.stats()["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_an_outage_without_end_ends_in_a_dead_letter_that_says_why(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    provider.configure(fail_rate_500=1.0)
    runs = await embed_until_idle(app, pipeline)
    assert len(runs) == 4
    assert [event.failed for run in runs for event in run.of(ItemsEnded)] == [1]
    ((reason, chunk, message),) = await audit.dead_letters(app)
    assert (reason, chunk) == ("provider_unavailable", None)
    assert "500" in message
    assert [job[1] for job in await audit.newest_jobs(app)] == ["failed"]
    await audit.assert_books_balance(app)


async def test_a_storm_of_faults_loses_nothing_and_pays_twice_only_for_what_was_dropped(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    batch = uuid4()
    for number in range(20):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(12)], batch)
    provider.configure(fail_rate_500=0.2, drop_rate=0.1, drop_after_rate=0.1, seed=3)
    await embed_until_idle(app, pipeline)
    assert await missing_chunks(app, pipeline) == 0
    progress = await batch_progress(app.database, batch)
    assert (progress.live_jobs, progress.embedded_chunks) == (0, 240)
    stats = provider.stats()
    lost = stats["calls_by_status"].get("drop_after", 0)
    assert 240 <= stats["inputs_paid"] <= 240 + 10 * lost
    await audit.assert_books_balance(app)


async def test_a_long_retry_after_of_an_outage_is_waited_for_in_the_queue_not_in_the_slot(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """An hour's sleep would outlast the lease, and hold up a stop."""
    await add_document(app, pipeline, "doc", TEXTS)
    slow = UnavailableProvider(retry_after_seconds=3600)
    await Run(app, pipeline, provider=slow)(seconds=5)
    assert slow.calls == 1
    (row,) = await app.database.fetch(
        "SELECT status::text, retry_count, available_at > now() + interval '50 minutes' FROM embedmill.embedding_queue"
    )
    assert row == ("pending", 1, True)


async def test_a_stop_in_an_outage_does_not_wait_for_it_and_costs_no_attempt(
    app: App, pipeline: Pipeline
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    noticed = asyncio.Event()
    down = UnavailableProvider(retry_after_seconds=25)
    run = Run(app, pipeline, provider=down, on_event=lambda event: noticed.set())
    running = asyncio.create_task(run(seconds=10))
    await noticed.wait()
    run.embedder.stop()
    async with asyncio.timeout(5):
        await running
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 0, 0)]
    assert not run.of(CallSucceeded)


class UnavailableProvider:
    """Refuses every call, and says when to come back."""

    def __init__(self, *, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        self.calls = 0
        self.model, self.dimensions = "down", 16
        self.limits = ProviderLimits(10, 1000, 1000)

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        self.calls += 1
        raise ProviderUnavailableError("down for maintenance", retry_after_seconds=self.retry_after_seconds)

    async def aclose(self) -> None:
        pass
