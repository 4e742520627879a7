"""Limits of a walk: rows, batches, time, pace, budget. They hold whoever carries it out."""

from __future__ import annotations

from decimal import Decimal

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.backfill_orders import BackfillOrder
from tests.support.provider import RunningProvider
from tests.support.records import work_until_quiet
from tests.support.walks import add_notes, documents, order, state_of, walk
from tests.support.work import DIMENSIONS, stand_in_pipeline


async def test_so_many_rows_end_it_and_it_goes_on_where_it_was(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 30)
    await order(app, source, BackfillOrder(rows=12, batch_size=5))
    await walk(app, source)
    assert len(await documents(app)) == 12
    assert (await state_of(app, source)).end_reason == "its rows are done"
    assert await order(app, source), "it goes on where it was"
    await walk(app, source)
    assert len(await documents(app)) == 30


async def test_so_many_batches_end_it(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    source = await add_notes(app, pipeline, 30)
    await order(app, source, BackfillOrder(batches=2, batch_size=4))
    await walk(app, source)
    assert len(await documents(app)) == 8
    assert (await state_of(app, source)).end_reason == "its batches are done"


async def test_its_time_ends_it(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    source = await add_notes(app, pipeline, 5)
    await order(app, source, BackfillOrder(seconds=0))
    await walk(app, source)
    assert await documents(app) == {}
    assert (await state_of(app, source)).end_reason == "its time is over"


async def test_its_rate_paces_it(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    """A rate of two an hour: one row, and the next not for half an hour."""
    source = await add_notes(app, pipeline, 5)
    await order(app, source, BackfillOrder(rows_per_second=2 / 3600))
    await walk(app, source)
    assert len(await documents(app)) == 1
    rows = await app.database.fetch(
        "SELECT extract(epoch FROM next_batch_at - now())::float8 FROM embedmill.backfills"
    )
    assert 1700 < rows[0][0] <= 1800
    assert (await state_of(app, source)).is_running


async def test_a_delay_stands_between_two_batches(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 5)
    await order(app, source, BackfillOrder(delay_seconds=3600, batch_size=2))
    await walk(app, source)
    assert len(await documents(app)) == 2


async def test_what_is_enqueued_never_costs_more_than_the_budget(app: App, provider: RunningProvider) -> None:
    """A dollar for a token, so to say: each note has two words."""
    pipeline = await stand_in_pipeline(
        app, provider.base_url, dimensions=DIMENSIONS, price_per_million_tokens=1_000_000
    )
    source = await add_notes(app, pipeline, 30)
    await order(app, source, BackfillOrder(budget_usd=Decimal(13), batch_size=4))
    await walk(app, source)
    assert len(await documents(app)) == 6
    assert (await state_of(app, source)).is_running, "what waits may turn out to be cheaper"
    # Somebody else spends in the same pipeline: that is not this walk's.
    await app.database.fetch(
        "INSERT INTO embedmill.llm_usage_log (tenant_id, pipeline_id, call_id, usage_type, action, provider, model,"
        "    inputs, input_tokens, latency_ms, cost_usd) "
        "VALUES (1, %s, gen_random_uuid(), 'internal_ingestion', 'embed', 'test', 'test', 1, 1, 1, 5000)",
        (pipeline.id,),
    )
    await work_until_quiet(app, seconds=30)
    state = await state_of(app, source)
    assert state.is_out_of_budget
    assert state.cost_usd <= 13
    assert state.calls > 0

    await order(app, source, BackfillOrder(budget_usd=state.cost_usd))
    await work_until_quiet(app, seconds=30)
    again = await state_of(app, source)
    assert again.is_out_of_budget
    assert state.cost_usd < again.cost_usd <= 2 * state.cost_usd, "a new budget is on top of what was spent"


async def test_a_budget_without_a_price_is_refused(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    from embedmill.errors import ConfigurationError

    source = await add_notes(app, pipeline, 1)
    with pytest.raises(ConfigurationError, match="price-per-million-tokens"):
        await order(app, source, BackfillOrder(budget_usd=Decimal(1)))
