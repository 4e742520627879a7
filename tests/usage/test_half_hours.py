"""Sums by the half hour are those of the calls: for any span, zone and grouping, whatever is folded by then; and nobody
who writes a call waits for another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
import pytest_asyncio

from embedmill.database.pool import Database
from embedmill.usage.ledger import Grouping, UsageSum, summarize_usage
from embedmill.usage.survey import survey_usage

NOW = datetime(2026, 5, 20, 13, 7, 21, tzinfo=UTC)
ADD = (
    "INSERT INTO embedmill.llm_usage_log (tenant_id, created_at, pipeline_id, call_id, user_id, usage_type, action, "
    "    provider, model, inputs, input_tokens, output_tokens, latency_ms, cost_usd, error) "
    "VALUES (%s, %s, %s, gen_random_uuid(), %s, %s, 'embed', 'p', %s, %s, %s, %s, %s, %s, %s)"
)
# What the calls themselves say, by no function of ours.
ONE_BY_ONE = """
SELECT count(*), count(error), coalesce(sum(inputs), 0), coalesce(sum(input_tokens), 0),
       coalesce(sum(output_tokens), 0), coalesce(sum(total_tokens), 0),
       CASE WHEN count(*) = 0 THEN 0 ELSE sum(cost_usd) END,
       count(*) FILTER (WHERE cost_usd IS NULL), avg(latency_ms)::float
  FROM embedmill.llm_usage_log
 WHERE (%(tenant)s::integer IS NULL OR tenant_id = %(tenant)s)
   AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
"""
DAYS_ONE_BY_ONE = """
SELECT to_char(created_at AT TIME ZONE %(zone)s, 'YYYY-MM-DD'), count(*), sum(total_tokens)::bigint, sum(cost_usd)
  FROM embedmill.llm_usage_log WHERE tenant_id = 1 GROUP BY 1
"""


@pytest_asyncio.fixture
async def owner(database: str) -> AsyncIterator[Database]:
    async with Database(database) as opened:
        await opened.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme')")
        yield opened


async def add_calls(owner: Database, chance: random.Random, calls: int) -> None:
    """Over three days, many of them at the very edge of a half hour."""
    for _ in range(calls):
        at = NOW - timedelta(seconds=chance.randrange(3 * 86_400), microseconds=chance.randrange(1_000_000))
        if chance.random() < 0.3:
            at = at.replace(minute=chance.choice((0, 30)), second=0, microsecond=chance.choice((0, 1)))
        await owner.fetch(
            ADD,
            (
                chance.choice((1, 1, 2)),
                at,
                chance.choice((1, 77, None)),
                chance.choice(("ann", None)),
                chance.choice(("query", "backfill:a", "internal_ingestion")),
                chance.choice(("a", "b")),
                chance.randrange(1, 100),
                chance.randrange(1000),
                chance.randrange(3),
                chance.randrange(500),
                chance.choice((None, Decimal(chance.randrange(1000)) / 10**7)),
                chance.choice((None, None, "dropped")),
            ),
        )


def figures(one: UsageSum) -> tuple[object, ...]:
    return (
        one.calls,
        one.failed_calls,
        one.inputs,
        one.input_tokens,
        one.output_tokens,
        one.total_tokens,
        one.cost_usd,
        one.unknown_cost_calls,
        None if one.latency_ms_average is None else pytest.approx(one.latency_ms_average),
    )


async def test_sums_are_those_of_the_calls_whatever_is_folded_and_wherever_the_span_ends(
    owner: Database,
) -> None:
    chance = random.Random(5)
    spans: list[tuple[datetime | None, datetime | None]] = [
        (None, None),
        (None, NOW),
        (NOW, None),
        (NOW, NOW),
    ]
    for _ in range(40):
        begin = NOW - timedelta(seconds=chance.randrange(4 * 86_400))
        length = timedelta(seconds=chance.choice((0, 1, 600, 1799, 1800, 1801, 7200, 86_400, 200_000)))
        if chance.random() < 0.5:
            begin = begin.replace(minute=chance.choice((0, 30)), second=0)
        spans.append((begin, begin + length))
    for _ in range(3):
        await add_calls(owner, chance, 60)
        for since, until in spans:
            tenant = chance.choice((1, 2, None))
            given = {"tenant": tenant, "since": since, "until": until}
            expected = await owner.fetch_one(ONE_BY_ONE, given)
            for grouping in chance.sample(list(Grouping), 3):
                found = await summarize_usage(owner, tenant, grouping, since=since, until=until)
                assert figures(found.total) == expected, (grouping, given)
                assert sum(row.calls for row in found.rows) == found.total.calls
                assert sum(row.cost_usd or 0 for row in found.rows) == (found.total.cost_usd or 0)
        if chance.random() < 0.7:
            await owner.fetch("SELECT embedmill.fold_usage()")
    assert await owner.fetch("SELECT embedmill.fold_usage() + 0 FROM generate_series(1, 2)")
    assert await owner.fetch("SELECT count(*) FROM embedmill.usage_unfolded") == [(0,)]
    assert figures((await summarize_usage(owner, 1, Grouping.MODEL)).total) == await owner.fetch_one(
        ONE_BY_ONE, {"tenant": 1, "since": None, "until": None}
    )


@pytest.mark.parametrize(
    "zone",
    ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham", "Australia/Lord_Howe"],
)
async def test_days_are_exact_in_zones_of_half_hours_and_in_those_of_quarters(
    owner: Database, zone: str
) -> None:
    await add_calls(owner, random.Random(7), 120)
    await owner.fetch("SELECT embedmill.fold_usage()")
    await add_calls(owner, random.Random(8), 30)
    expected = {row[0]: row[1:] for row in await owner.fetch(DAYS_ONE_BY_ONE, {"zone": zone})}
    summed = await summarize_usage(owner, 1, Grouping.DAY, time_zone=zone)
    assert {row.group: (row.calls, row.total_tokens, row.cost_usd) for row in summed.rows} == expected
    survey = await survey_usage(owner, 1, NOW - timedelta(days=5), None, zone)
    days: dict[str, list[int]] = {}
    for one in survey.days:
        assert one.day is not None
        found = days.setdefault(one.day.isoformat(), [0, 0])
        found[0] += one.calls
        found[1] += one.tokens
    assert days == {day: [row[0], row[1]] for day, row in expected.items()}
    assert {one.group for one in survey.days} == {"query", "backfill", "internal_ingestion"}
    for groups in (survey.by_type, survey.by_model, survey.by_pipeline, survey.by_tenant):
        assert (
            sum(one.calls for one in groups) == survey.total.calls == sum(row[0] for row in expected.values())
        )
        assert sum(one.failed_cost_usd for one in groups) == survey.total.failed_cost_usd > 0
    chance = random.Random(9)
    for _ in range(30):
        since = NOW - timedelta(seconds=chance.randrange(3 * 86_400))
        until = since + timedelta(seconds=chance.choice((0, 1, 1800, 7200, 10_800, 86_400, 200_000)))
        if chance.random() < 0.5:
            since, until = (at.replace(hour=at.hour // 3 * 3, minute=0, second=0) for at in (since, until))
        total = (await survey_usage(owner, 1, since, until, zone)).total
        counted = await owner.fetch_one(ONE_BY_ONE, {"tenant": 1, "since": since, "until": until})
        assert counted is not None
        assert (total.calls, total.failed_calls, total.inputs) == counted[:3], (since, until)


async def test_nobody_who_writes_a_call_waits_for_another_or_for_the_folding(owner: Database) -> None:
    row = (1, NOW, 1, None, "query", "a", 1, 10, 0, 1, Decimal("0.5"), None)
    async with await psycopg.AsyncConnection.connect(owner.url) as first:
        await first.execute(ADD, row)  # not committed: the same half hour, pipeline, type and model
        async with asyncio.timeout(10):
            await owner.fetch(ADD, row)
            assert await owner.fetch("SELECT embedmill.fold_usage()") == [(1,)]
            await owner.fetch(ADD, row)
        assert (await summarize_usage(owner, 1, Grouping.DAY)).total.calls == 2
        await first.commit()
    assert (await summarize_usage(owner, 1, Grouping.DAY)).total.cost_usd == Decimal("1.5")
    async with await psycopg.AsyncConnection.connect(owner.url) as taken_back:
        await taken_back.execute(ADD, row)
        await taken_back.rollback()
    assert (await summarize_usage(owner, 1, Grouping.DAY)).total.calls == 3


async def test_what_retention_drops_stays_in_the_sums(owner: Database) -> None:
    await add_calls(owner, random.Random(9), 80)
    before = await summarize_usage(owner, 1, Grouping.MODEL, time_zone="Asia/Kolkata")
    (dropped,) = (await owner.fetch("SELECT embedmill.fold_old_usage(%s, 1000)", (NOW - timedelta(days=1),)))[
        0
    ]
    assert dropped > 0
    after = await summarize_usage(owner, 1, Grouping.MODEL, time_zone="Asia/Kolkata")
    assert [figures(row) for row in after.rows] == [figures(row) for row in before.rows]
