"""Limits of the provider and of the quota: waited for together, at no attempt's cost, without stirring up the
backlog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import RateLimitedError
from embedmill.events import CallFailed
from embedmill.ports import EmbeddingResponse, ProviderLimits, Purpose
from tests.embed.desk import Run, embed_until_idle, gate_on
from tests.support import audit
from tests.support.provider import RunningProvider, vectors_for
from tests.support.work import add_document, missing_chunks, stand_in_pipeline


async def test_a_429_costs_no_attempt_and_cools_the_shared_quota(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(10)])
    provider.configure(faults=["429"], retry_after="ms", retry_after_seconds=0.4)
    run = await Run(app, pipeline)()
    assert await missing_chunks(app, pipeline) == 0
    assert await audit.ended_items(app) == [("completed", 0, 0, None)]
    assert [event.rate_limited for event in run.of(CallFailed)] == [True]
    rows = await app.database.fetch(
        "SELECT u.created_at >= q.cooldown_until FROM embedmill.quotas q, embedmill.llm_usage_log u "
        " WHERE q.quota_key = %s",
        (pipeline.quota_key,),
    )
    assert rows == [(True,)]  # no call was made, and none was charged, before the time that was asked for
    await audit.assert_books_balance(app)


async def test_a_429_storm_drains_without_an_attempt_spent(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    for number in range(10):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(8)])
    provider.configure(calls_per_minute=3, window_seconds=0.5, retry_after="ms")
    await embed_until_idle(app, pipeline)
    assert await missing_chunks(app, pipeline) == 0
    assert {row[1] for row in await audit.ended_items(app)} == {0}
    stats = provider.stats()
    assert stats["calls_by_status"]["429"] > 0
    assert stats["calls_paid"] <= 10, "calls stay full under a limit"
    assert stats["most_paid_for_one_input"] == 1
    await audit.assert_books_balance(app)


async def test_a_crowd_of_calls_waits_for_each_window_as_one_with_full_batches(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """Ten windows are needed: what is refused in each is what was in flight at most, and less as the gate learns."""
    for number in range(40):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    provider.configure(calls_per_minute=4, window_seconds=0.4, retry_after="ms")
    gate = gate_on(calls_in_flight=8)
    await Run(app, pipeline, gate=gate)()
    await embed_until_idle(app, pipeline)
    assert await missing_chunks(app, pipeline) == 0
    stats = provider.stats()
    assert stats["calls_paid"] == 40, "every call is full"
    assert stats["calls_by_status"]["429"] <= 40
    assert gate.concurrency.limit < 8
    assert {row[:2] for row in await audit.ended_items(app)} == {("completed", 0)}


async def test_a_429_that_does_not_say_for_how_long_is_waited_out_by_our_own_delay(
    app: App, pipeline: Pipeline
) -> None:
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(10)])
    provider = SilentProvider(refusals=2)
    gate = gate_on()
    gate.rate_limit_delay_seconds = 0.2
    run = await Run(app, pipeline, provider=provider, gate=gate)()
    assert [event.rate_limited for event in run.of(CallFailed)] == [True, True]
    assert await missing_chunks(app, pipeline) == 0
    first, second, third = provider.called_at
    assert second - first >= 0.2
    assert third - second >= 0.2


async def test_a_limit_that_is_used_up_by_a_good_answer_holds_everybody_back_so_that_no_429_comes(
    app: App, pipeline: Pipeline
) -> None:
    for number in range(6):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    provider = SilentProvider(exhausted_seconds=0.2)
    await Run(app, pipeline, provider=provider, calls_in_flight=1)()
    assert await missing_chunks(app, pipeline) == 0
    waits = [later - earlier for earlier, later in pairwise(provider.called_at)]
    assert len(waits) == 5
    assert min(waits) >= 0.19


async def test_a_limit_that_seems_used_up_for_a_day_holds_nobody_back_for_more_than_a_minute(
    app: App, pipeline: Pipeline
) -> None:
    """Some say until when the whole allowance is restored, not until when the next call may come."""
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(10)])
    await Run(app, pipeline, provider=SilentProvider(exhausted_seconds=86_400))()
    rows = await app.database.fetch(
        "SELECT cooldown_until > now() + interval '50 s', cooldown_until < now() + interval '61 s' "
        "  FROM embedmill.quotas WHERE quota_key = %s",
        (pipeline.quota_key,),
    )
    assert rows == [(True, True)]


async def test_a_long_retry_after_leaves_the_backlog_alone(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """Only what was in flight comes back as rate limited; the rest is not claimed and given back one by one."""
    for number in range(60):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(10)])
    provider.configure(calls_per_minute=0, retry_after_seconds=300)
    run = await Run(app, pipeline, calls_in_flight=3)()
    rows = await app.database.fetch(
        "SELECT status::text, count(*), sum(retry_count), max(available_at) > now() + interval '4 minutes' "
        "  FROM embedmill.embedding_queue GROUP BY 1 ORDER BY 1"
    )
    untouched, limited = rows
    assert (untouched[0], *untouched[2:]) == ("pending", 0, False)
    assert (limited[0], *limited[2:]) == ("rate_limited", 0, True)
    assert limited[1] <= 4
    assert provider.stats()["calls"] <= 3
    assert run.embedder.rest_seconds > 240
    await audit.assert_books_balance(app)


async def test_the_quota_keeps_a_crowd_of_workers_below_the_provider_s_limit(
    app: App, provider: RunningProvider
) -> None:
    """Two embedders with eight calls each, one quota; the provider would say 429 to the first call too many."""
    pipeline = await stand_in_pipeline(
        app, provider.base_url, dimensions=16, max_inputs_per_call=5, calls_per_minute=600
    )
    provider.configure(calls_per_minute=600)
    await fill_bucket(app)
    for number in range(45):
        await add_document(app, pipeline, f"doc {number}", [f"{number} {n}" for n in range(5)])
    runs = [Run(app, pipeline, calls_in_flight=8) for _ in range(2)]
    await asyncio.gather(*(run() for run in runs))
    assert await missing_chunks(app, pipeline) == 0
    assert "429" not in provider.stats()["calls_by_status"]
    await audit.assert_books_balance(app)


async def test_calls_are_kept_small_enough_for_the_tokens_a_minute(
    app: App, provider: RunningProvider
) -> None:
    pipeline = await stand_in_pipeline(
        app, provider.base_url, dimensions=16, max_inputs_per_call=100, tokens_per_minute=60_000
    )
    await fill_bucket(app)
    await add_document(app, pipeline, "doc", [f"{n} " + "word " * 97 for n in range(32)])
    await Run(app, pipeline)()
    # 1.5% of a minute is 900 tokens, and each text counts for 100.
    assert 7 <= provider.stats()["max_inputs_in_a_call"] <= 9
    assert await missing_chunks(app, pipeline) == 0


async def test_a_stop_does_not_wait_for_the_quota(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", [f"text {n}" for n in range(10)])
    noticed = asyncio.Event()
    provider.configure(calls_per_minute=0, retry_after_seconds=25)
    run = Run(app, pipeline, on_event=lambda event: noticed.set())
    running = asyncio.create_task(run())
    await noticed.wait()
    run.embedder.stop()
    async with asyncio.timeout(5):
        await running
    ((_, status, retries, crashes),) = await audit.live_items(app)
    assert (status in {"pending", "rate_limited"}, retries, crashes) == (True, 0, 0)


async def fill_bucket(app: App) -> None:
    """As after an hour without a call."""
    await app.database.fetch("UPDATE embedmill.quotas SET refilled_at = refilled_at - interval '1 hour'")


class SilentProvider:
    """Refuses the first calls without a word on when to come back; then answers, perhaps with its last breath."""

    def __init__(self, *, refusals: int = 0, exhausted_seconds: float | None = None) -> None:
        self.refusals = refusals
        self.exhausted_seconds = exhausted_seconds
        self.called_at: list[float] = []
        self.model, self.dimensions = "silent", 16
        self.limits = ProviderLimits(10, 10_000, 1000)

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        self.called_at.append(time.monotonic())
        if len(self.called_at) <= self.refusals:
            raise RateLimitedError("too many")
        vectors = vectors_for(inputs, 16)
        return EmbeddingResponse(vectors, len(inputs), self.model, exhausted_seconds=self.exhausted_seconds)

    async def aclose(self) -> None:
        pass
