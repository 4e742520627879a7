"""A call is counted once, by the half hour and ever: whoever folds at the same time, and whether it was made before the
migration that counts, after it, or between that and its functions."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest_asyncio

from embedmill.database.migrator import migrate, shipped_functions, shipped_migrations
from embedmill.database.pool import Database
from tests.usage.test_half_hours import add_calls

CALL = """
INSERT INTO embedmill.llm_usage_log
    (tenant_id, created_at, pipeline_id, generation_id, call_id, usage_type, action, provider, model, inputs,
     input_tokens, latency_ms, cost_usd, error)
SELECT 1, %(at)s + n * interval '7 minutes', CASE WHEN n %% 5 > 0 THEN 1 END, n %% 3, gen_random_uuid(),
       (ARRAY['query', 'backfill:a', 'backfill:b'])[n %% 3 + 1], 'embed', 'p', 'm' || n %% %(models)s::integer, 2, n,
       10, CASE WHEN n %% 4 > 0 THEN n / 1000000.0 END, CASE WHEN n %% 6 = 0 THEN 'dropped' END
  FROM generate_series(1, %(calls)s::integer) AS n
"""
LEDGER = """
SELECT count(*), count(error), sum(total_tokens)::bigint, coalesce(sum(cost_usd), 0),
       count(*) FILTER (WHERE cost_usd IS NULL)
  FROM embedmill.llm_usage_log
"""
HALF_HOURS = """
SELECT sum(calls)::bigint, sum(failed_calls)::bigint, sum(input_tokens + output_tokens)::bigint,
       coalesce(sum(cost_usd), 0), sum(unknown_cost_calls)::bigint
  FROM embedmill.usage_half_hours
"""
EVER = """
SELECT sum(calls)::bigint, sum(failed_calls)::bigint, sum(tokens)::bigint, sum(cost_usd),
       sum(unknown_cost_calls)::bigint
  FROM embedmill.usage_totals
"""
# Each half hour against its calls, by no function of ours; what differs comes back.
DIFFERENCES = """
WITH calls AS (
    SELECT tenant_id, to_timestamp(floor(extract(epoch FROM created_at) / 1800) * 1800), coalesce(pipeline_id, 0),
           coalesce(generation_id, 0), usage_type, provider, model, count(*)::bigint, count(error)::bigint,
           count(*) FILTER (WHERE error IS NOT NULL AND total_tokens > 0)::bigint, sum(inputs)::bigint,
           sum(input_tokens)::bigint, sum(output_tokens)::bigint, sum(latency_ms)::bigint, sum(cost_usd),
           coalesce(sum(cost_usd) FILTER (WHERE error IS NOT NULL), 0),
           count(*) FILTER (WHERE cost_usd IS NULL)::bigint
      FROM embedmill.llm_usage_log GROUP BY 1, 2, 3, 4, 5, 6, 7
)
(SELECT * FROM calls EXCEPT SELECT * FROM embedmill.usage_half_hours)
UNION ALL
(SELECT * FROM embedmill.usage_half_hours EXCEPT SELECT * FROM calls)
"""
# Likewise the three hours, against the half hours.
THREE_HOURS = """
WITH halves AS (
    SELECT tenant_id, to_timestamp(floor(extract(epoch FROM half_hour) / 10800) * 10800), pipeline_id, generation_id,
           usage_type, provider, model, sum(calls)::bigint, sum(failed_calls)::bigint,
           sum(charged_failed_calls)::bigint, sum(inputs)::bigint, sum(input_tokens)::bigint,
           sum(output_tokens)::bigint, sum(latency_ms)::bigint, sum(cost_usd), sum(failed_cost_usd),
           sum(unknown_cost_calls)::bigint
      FROM embedmill.usage_half_hours GROUP BY 1, 2, 3, 4, 5, 6, 7
)
(SELECT * FROM halves EXCEPT SELECT * FROM embedmill.usage_three_hours)
UNION ALL
(SELECT * FROM embedmill.usage_three_hours EXCEPT SELECT * FROM halves)
"""
NOW = datetime(2026, 5, 20, 13, 7, 21, tzinfo=UTC)
SINCE = """
SELECT count(*), coalesce(sum(total_tokens), 0)::bigint, coalesce(sum(cost_usd), 0),
       count(*) FILTER (WHERE cost_usd IS NULL)
  FROM embedmill.llm_usage_log WHERE tenant_id = 1 AND created_at >= %(since)s
"""


@pytest_asyncio.fixture
async def owner(database: str) -> AsyncIterator[Database]:
    async with Database(database) as opened:
        yield opened


async def test_whoever_writes_and_folds_at_once_each_call_is_counted_once(owner: Database) -> None:
    writing = 6

    async def write() -> None:
        nonlocal writing
        async with await psycopg.AsyncConnection.connect(owner.url, autocommit=True) as own:
            for n in range(30):
                await own.execute(CALL, {"at": NOW, "models": 3, "calls": 1 + n % 7})
        writing -= 1

    async def fold() -> None:
        async with await psycopg.AsyncConnection.connect(owner.url, autocommit=True) as own:
            while writing:
                await own.execute("SELECT embedmill.fold_usage()")

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for work in (write, write, write, write, write, write, fold, fold, fold):
            group.create_task(work())
    await owner.fetch("SELECT embedmill.fold_usage()")
    expected = await owner.fetch(LEDGER)
    assert await owner.fetch(HALF_HOURS) == await owner.fetch(EVER) == expected
    assert await owner.fetch(DIFFERENCES) == await owner.fetch(THREE_HOURS) == []
    assert await owner.fetch("SELECT DISTINCT usage_type FROM embedmill.usage_totals ORDER BY 1") == [
        ("backfill",),
        ("query",),
    ]


async def test_a_fold_that_is_taken_back_has_folded_nothing(owner: Database) -> None:
    await owner.fetch(CALL, {"at": NOW, "models": 3, "calls": 50})
    async with await psycopg.AsyncConnection.connect(owner.url) as killed:
        assert await (await killed.execute("SELECT embedmill.fold_usage()")).fetchone() == (50,)
        async with asyncio.timeout(10):
            assert await owner.fetch("SELECT embedmill.fold_usage()") == [(0,)], (
                "one folds, others do not wait"
            )
        await killed.rollback()
    assert await owner.fetch(EVER) == [(None,) * 5]
    assert await owner.fetch("SELECT embedmill.fold_usage(), embedmill.fold_usage()") == [(50, 0)]
    assert await owner.fetch(EVER) == await owner.fetch(HALF_HOURS) == await owner.fetch(LEDGER)


async def test_what_was_used_since_any_moment_is_exact_and_of_dropped_calls_by_the_half_hour(
    owner: Database,
) -> None:
    chance = random.Random(11)
    await add_calls(owner, chance, 150)
    ask = "SELECT * FROM embedmill.usage_since(1, %(since)s)"
    moments = [NOW - timedelta(seconds=chance.randrange(4 * 86_400)) for _ in range(40)]
    for since in (*moments, NOW.replace(minute=0, second=0), NOW - timedelta(days=9)):
        assert await owner.fetch(ask, {"since": since}) == await owner.fetch(SINCE, {"since": since})
    everything = await owner.fetch("SELECT * FROM embedmill.usage_since(1, '-infinity')")
    assert everything == await owner.fetch(SINCE, {"since": NOW - timedelta(days=9)})
    begins = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
    whole = await owner.fetch(SINCE, {"since": begins})
    await owner.fetch("SELECT embedmill.fold_usage()")
    await owner.fetch("SELECT embedmill.fold_old_usage(%s, 1000)", (NOW - timedelta(days=1),))
    assert await owner.fetch(ask, {"since": begins}) == whole
    assert await owner.fetch(ask, {"since": begins + timedelta(minutes=29)}) == whole, "never too little"
    assert await owner.fetch("SELECT * FROM embedmill.usage_since(1, '-infinity')") == everything


def test_calls_of_before_the_upgrade_are_counted_and_those_that_are_made_during_it(
    empty_database: str, tmp_path: Path
) -> None:
    shutil.copytree(str(shipped_migrations()), tmp_path / "older")
    for newer in (tmp_path / "older").glob("*.sql"):
        if newer.name >= "0006":
            newer.unlink()
    (tmp_path / "functions").mkdir()
    shutil.copy(str(shipped_functions() / "10_tenants.sql"), tmp_path / "functions" / "10_tenants.sql")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection, tmp_path / "older", tmp_path / "functions")
        connection.execute("INSERT INTO embedmill.tenants (slug) VALUES ('default')")
        connection.execute(CALL, {"at": NOW, "models": 400, "calls": 900})
        migrate(connection, shipped_migrations(), tmp_path / "functions")
        # A worker that goes on while the functions of the new release are not there yet.
        connection.execute(CALL, {"at": NOW, "models": 3, "calls": 25})
        migrate(connection)
        connection.execute(CALL, {"at": NOW, "models": 3, "calls": 25})
        assert connection.execute("SELECT embedmill.fold_usage()").fetchone() == (50,)
        expected = connection.execute(LEDGER).fetchone()
        assert expected is not None
        assert expected[0] == 950
        assert connection.execute(HALF_HOURS).fetchone() == connection.execute(EVER).fetchone() == expected
        assert connection.execute(DIFFERENCES).fetchall() == connection.execute(THREE_HOURS).fetchall() == []
        named = connection.execute(
            "SELECT max(tokens) FROM embedmill.usage_totals GROUP BY is_named ORDER BY is_named"
        )
        (largest_of_others,), (largest,) = named.fetchall()
        count = connection.execute(
            "SELECT count(*) FROM embedmill.usage_totals WHERE is_named AND tenant = 'default'"
        )
        assert count.fetchone() == (300,)
        assert largest_of_others < largest
