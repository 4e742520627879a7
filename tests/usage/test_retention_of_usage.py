"""Calls past the ledger's retention are summed, and whoever asks what was spent gets the same answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError
from embedmill.queue.config import set_value
from embedmill.usage.ledger import Grouping, UsageSummary, summarize_usage

NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0) - timedelta(hours=1)
CALL = """
INSERT INTO embedmill.llm_usage_log
    (created_at, tenant_id, pipeline_id, generation_id, call_id, session_id, user_id, usage_type, action, provider,
     model, inputs, input_tokens, output_tokens, latency_ms, cost_usd, error)
SELECT %(now)s - n * interval '6 hours', %(tenant)s, %(pipeline)s, %(generation)s, gen_random_uuid(),
       CASE WHEN n %% 3 = 0 THEN gen_random_uuid() END, CASE WHEN n %% 4 = 0 THEN 'ann' END,
       CASE WHEN n %% 5 = 0 THEN 'query' ELSE 'internal_ingestion' END, 'embed', 'openai', 'm' || n %% 2, 3, 10 + n,
       n %% 2, 100 + n, CASE WHEN n %% 7 <> 0 THEN n / 1000000.0 END, CASE WHEN n %% 11 = 0 THEN 'answered 500' END
  FROM generate_series(0, 399) AS n
"""


@pytest.fixture
async def ledger(app: App, pipeline: Pipeline) -> App:
    """A hundred days of calls."""
    await app.database.fetch(
        CALL,
        {
            "now": NOW,
            "tenant": pipeline.tenant_id,
            "pipeline": pipeline.id,
            "generation": pipeline.generation.id,
        },
    )
    return app


async def keep(app: App, days: int) -> None:
    await set_value(app.database, "usage_retention_days", str(days), actor="test")


async def drop(app: App, at_once: int = 5000) -> list[str]:
    """What each step said, until there is nothing more to do."""
    said = []
    while True:
        row = await app.database.fetch_one("SELECT embedmill.drop_expired(%s)", (at_once,))
        assert row is not None
        if row[0] == "nothing":
            return said
        said.append(row[0])


async def calls_left(app: App) -> int:
    row = await app.database.fetch_one("SELECT count(*) FROM embedmill.llm_usage_log")
    return int(row[0]) if row else -1


def facts(summary: UsageSummary) -> list[object]:
    rounded = [
        msgspec.structs.replace(row, latency_ms_average=round(row.latency_ms_average or 0, 6))
        for row in (summary.total, *summary.rows)
    ]
    return list(rounded)


async def asked(app: App, tenant_id: int) -> list[object]:
    """What a controller asks for."""
    answers: list[object] = []
    for grouping in set(Grouping) - {Grouping.SESSION}:
        answers += facts(await summarize_usage(app.database, tenant_id, grouping))
    answers += facts(await summarize_usage(app.database, None, Grouping.TENANT))
    for zone in ("Europe/Berlin", "America/New_York"):
        answers += facts(await summarize_usage(app.database, tenant_id, Grouping.DAY, time_zone=zone))
    midnight = NOW.replace(hour=0, minute=0)
    for days in (20, 60, 90):
        since, until = midnight - timedelta(days=days), midnight - timedelta(days=days - 15)
        for grouping in (Grouping.MODEL, Grouping.USER):
            answers += facts(
                await summarize_usage(app.database, tenant_id, grouping, since=since, until=until)
            )
        # Days of India begin in the middle of an hour: of the calls above all are at half past.
        since += timedelta(minutes=30)
        summary = await summarize_usage(app.database, tenant_id, Grouping.USER, since=since, until=until)
        answers += facts(summary)
    for statement in (
        "SELECT * FROM embedmill.generation_cost((SELECT max(id) FROM embedmill.generations))",
        f"SELECT * FROM embedmill.backfill_spent({tenant_id}, (SELECT max(id) FROM embedmill.pipelines), "
        "'internal_ingestion', now() - interval '90 days')",
    ):
        answers += await app.database.fetch(statement)
    return answers


async def test_nothing_is_dropped_unless_somebody_asks_for_it(ledger: App) -> None:
    assert await drop(ledger) == []
    assert await calls_left(ledger) == 400


async def test_every_sum_is_the_same_when_the_calls_are_gone(ledger: App, pipeline: Pipeline) -> None:
    await ledger.database.fetch("UPDATE embedmill.generations SET created_at = now() - interval '95 days'")
    before = await asked(ledger, pipeline.tenant_id)
    await keep(ledger, 40)
    assert await drop(ledger) == ["240 calls of the ledger summed"]
    assert await calls_left(ledger) == 160
    assert await asked(ledger, pipeline.tenant_id) == before
    await keep(ledger, 32)
    await drop(ledger)
    assert await asked(ledger, pipeline.tenant_id) == before


async def test_it_goes_in_steps_and_one_that_is_repeated_counts_nothing_twice(
    ledger: App, pipeline: Pipeline
) -> None:
    before = facts(await summarize_usage(ledger.database, pipeline.tenant_id, Grouping.DAY))
    await keep(ledger, 40)
    assert await drop(ledger, 100) == ["100 calls of the ledger summed"] * 2 + [
        "40 calls of the ledger summed"
    ]
    assert facts(await summarize_usage(ledger.database, pipeline.tenant_id, Grouping.DAY)) == before


async def test_calls_of_one_hour_that_go_one_after_the_other_are_one_sum(
    ledger: App, pipeline: Pipeline
) -> None:
    await ledger.database.fetch(
        "UPDATE embedmill.llm_usage_log SET created_at = %s", (NOW - timedelta(days=50),)
    )
    before = await asked(ledger, pipeline.tenant_id)
    await keep(ledger, 40)
    await drop(ledger, 7)
    assert await calls_left(ledger) == 0
    assert await asked(ledger, pipeline.tenant_id) == before
    row = await ledger.database.fetch_one(
        "SELECT count(*), count(DISTINCT half_hour) FROM embedmill.usage_of_users"
    )
    assert row is not None
    assert row[0] < 20
    assert row[1] == 1


async def test_a_cost_that_nobody_knew_stays_unknown(ledger: App, pipeline: Pipeline) -> None:
    await ledger.database.fetch("UPDATE embedmill.llm_usage_log SET cost_usd = NULL")
    await keep(ledger, 40)
    await drop(ledger)
    total = (await summarize_usage(ledger.database, pipeline.tenant_id, Grouping.USER)).total
    assert (total.cost_usd, total.unknown_cost_calls) == (None, 400)


async def test_a_budget_that_is_set_later_knows_what_was_spent_long_ago(
    ledger: App, pipeline: Pipeline
) -> None:
    set_total = "SELECT embedmill.set_budget(%s, NULL, 'total', 100)"
    await ledger.database.fetch(set_total, (pipeline.tenant_id,))
    (spent,) = await ledger.database.fetch("DELETE FROM embedmill.budgets RETURNING spent_usd")
    assert spent[0] > 0
    await keep(ledger, 40)
    await drop(ledger)
    await ledger.database.fetch(set_total, (pipeline.tenant_id,))
    assert await ledger.database.fetch("SELECT spent_usd FROM embedmill.budgets") == [spent]
    await drop(ledger)
    assert await ledger.database.fetch("SELECT spent_usd FROM embedmill.budgets") == [spent]


async def test_the_calls_of_the_month_that_runs_are_never_summed(ledger: App) -> None:
    for days in (1, 31):
        with pytest.raises(ConfigurationError, match="32 or more"):
            await keep(ledger, days)
    await keep(ledger, 32)
    await keep(ledger, 0)


async def test_of_another_tenant_nobody_sees_the_sums(ledger: App, pipeline: Pipeline) -> None:
    await keep(ledger, 40)
    await drop(ledger)
    other = ledger.database.for_tenant(pipeline.tenant_id + 1, actor="eve")
    async with other.transaction() as connection:
        await connection.execute("SET LOCAL ROLE embedmill_service")
        cursor = await connection.execute("SELECT count(*) FROM embedmill.usage_of_users")
        assert await cursor.fetchone() == (0,)
