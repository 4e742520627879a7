"""A provider that is down, hangs, drops or answers 5xx: waited for within the slot, then by the gate, at no item's
cost; nothing is written twice and nothing is lost. An input that kills its provider is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.core.breaker import FAILURES_TO_OPEN
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ProviderUnavailableError
from embedmill.events import CallFailed, CallSucceeded
from embedmill.ingest.progress import batch_progress
from embedmill.ports import EmbeddingResponse, ProviderLimits, Purpose
from tests.embed.desk import Later, Run, embed_until_idle, free_all, gate_on
from tests.support import audit
from tests.support.provider import RunningProvider, vectors_for
from tests.support.queue_rows import claim, grow_older
from tests.support.work import add_document, missing_chunks, stand_in_pipeline

TEXTS = [f"text {n}" for n in range(10)]


@pytest.mark.parametrize("fault", ["500", "502", "503", "drop", "drop_after", "drop_mid", "hang"])
async def test_a_short_outage_is_waited_out_in_the_slot_at_no_cost_of_an_attempt(
    app: App, provider: RunningProvider, fault: str
) -> None:
    pipeline = await stand_in_pipeline(
        app,
        provider.base_url,
        dimensions=16,
        max_inputs_per_call=10,
        timeout_seconds=0.5 if fault == "hang" else 10.0,
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


async def test_an_outage_however_long_costs_no_attempt_and_ends_within_a_minute_of_the_provider_s_return(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    for number in range(20):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    provider.configure(fail_rate_500=1.0)
    clock = Later()
    gate = gate_on(clock)
    run = await Run(app, pipeline, gate=gate)()
    assert "does not answer" in (run.embedder.trouble or "")
    calls, rests = provider.stats()["calls"], []
    assert calls <= 2 * FAILURES_TO_OPEN
    for trial in range(80):
        rests.append((await Run(app, pipeline, gate=gate)()).embedder.rest_seconds)
        assert provider.stats()["calls"] == calls + trial, "an open breaker lets nothing through"
        clock.ahead += gate.rest_seconds + 0.1
        await Run(app, pipeline, gate=gate)()
    assert clock.ahead > 3600
    assert max(rests) <= 60
    assert {row[1:] for row in await audit.live_items(app)} == {("pending", 0, 0)}
    assert len(await claim(app.database, pipeline.generation.id)) == 20, (
        "they wait for nothing but the provider"
    )
    await free_all(app)
    provider.configure(fail_rate_500=0.0)
    clock.ahead += gate.rest_seconds + 0.1
    await Run(app, pipeline, gate=gate)()
    assert await missing_chunks(app, pipeline) == 0
    assert {row[:2] for row in await audit.ended_items(app)} == {("completed", 0)}
    assert provider.stats()["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_trials_are_on_the_books(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    provider.configure(fail_rate_500=1.0)
    clock = Later()
    gate = gate_on(clock)
    await Run(app, pipeline, gate=gate)()
    provider.configure(fail_rate_500=0.0)
    clock.ahead += 60
    await Run(app, pipeline, gate=gate)()
    (row,) = await app.database.fetch("SELECT count(*), sum(input_tokens) FROM embedmill.llm_usage_log")
    stats = provider.stats()
    assert row == (stats["calls"], stats["tokens_paid"])
    assert stats["inputs_paid"] == len(TEXTS) + 1


async def test_an_input_that_kills_its_provider_is_found_out_and_harms_no_neighbour(
    app: App, pipeline: Pipeline
) -> None:
    for number in range(15):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    await add_document(app, pipeline, "deadly", ["a deadly text"])
    deadly = DeadlyProvider("deadly")
    clock = Later()
    gate = gate_on(clock)
    for _ in range(12):
        await Run(app, pipeline, provider=deadly, gate=gate)()
        await grow_older(app.database, 1000)
        clock.ahead += 60
    assert await audit.live_items(app) == []
    assert await missing_chunks(app, pipeline) == 1
    ((reason, _, message),) = await audit.dead_letters(app)
    assert (reason, message) == ("provider_unavailable", "it died of that")
    await audit.assert_books_balance(app)


async def test_an_input_that_kills_its_provider_is_found_out_where_it_is_alone(
    app: App, pipeline: Pipeline
) -> None:
    """Nobody else calls: it is the trials, with a harmless text, that are answered."""
    for number in range(7):
        await add_document(app, pipeline, f"deadly {number}", [f"deadly {number} {n}" for n in range(10)])
    deadly = DeadlyProvider("deadly")
    clock = Later()
    gate = gate_on(clock)
    for _ in range(20):
        await Run(app, pipeline, provider=deadly, gate=gate)()
        await grow_older(app.database, 1000)
        clock.ahead += 60
    assert [row[:2] for row in await audit.ended_items(app)] == [("failed", 4)] * 7


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


async def test_a_provider_that_says_for_how_long_it_is_away_is_not_asked_before(
    app: App, pipeline: Pipeline
) -> None:
    """Nor is an hour slept in the slot: that would outlast the lease, and hold up a stop."""
    await add_document(app, pipeline, "doc", TEXTS)
    slow = UnavailableProvider(retry_after_seconds=3000)
    clock = Later()
    gate = gate_on(clock)
    for _ in range(3):
        run = await Run(app, pipeline, provider=slow, gate=gate)(seconds=5)
        assert slow.calls == 1
        assert run.embedder.rest_seconds > 1200
        clock.ahead += 800
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 0, 0)]


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


class DeadlyProvider:
    """Goes down whenever a text contains the word."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.model, self.dimensions = "deadly", 16
        self.limits = ProviderLimits(10, 10_000, 1000)

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        await asyncio.sleep(0.005)
        if any(self.word in text for text in inputs):
            raise ProviderUnavailableError("it died of that")
        return EmbeddingResponse(vectors_for(inputs, 16), len(inputs), self.model)

    async def aclose(self) -> None:
        pass
