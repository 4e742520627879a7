"""The ledger's sums: by every grouping, in any time zone, and what is unknown is never 0."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
import pytest_asyncio

from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError
from embedmill.usage.ledger import Grouping, UsageSummary, summarize_usage

JOB = UUID(int=5)
ROWS = [
    # tenant, at, type, model, tokens, output, cost, error, job, user
    (1, "2026-05-01 10:00+00", "internal_ingestion", "a", 100, 0, "0.10", None, JOB, "ann"),
    (1, "2026-05-01 23:30+00", "internal_ingestion", "a", 200, 0, "0.20", "dropped", JOB, None),
    (1, "2026-05-02 10:00+00", "query", "a", 10, 0, None, None, None, "bob"),
    (1, "2026-05-03 00:00+00", "query", "b", 5, 2, "0", None, None, "bob"),
    (2, "2026-05-01 10:00+00", "query", "a", 1000, 0, "9", None, None, "ann"),
]


@pytest_asyncio.fixture
async def owner(database: str) -> AsyncIterator[Database]:
    async with Database(database) as opened:
        await opened.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme')")
        for tenant, at, kind, model, tokens, output, cost, error, job, user in ROWS:
            await opened.fetch(
                "INSERT INTO embedmill.llm_usage_log (tenant_id, created_at, pipeline_id, call_id, session_id, "
                "    user_id, usage_type, action, provider, model, inputs, input_tokens, output_tokens, "
                "    latency_ms, cost_usd, error) "
                "VALUES (%s, %s, %s, gen_random_uuid(), %s, %s, %s, 'embed', 'p', %s, 1, %s, %s, 10, %s, %s)",
                (tenant, at, 1 if tenant == 1 else 77, job, user, kind, model, tokens, output, cost, error),
            )
        yield opened


def shown(summary: UsageSummary) -> dict[str | None, tuple[int, int, Decimal | None, int]]:
    return {
        row.group: (row.calls, row.total_tokens, row.cost_usd, row.unknown_cost_calls) for row in summary.rows
    }


async def test_each_grouping_adds_up_to_the_same(owner: Database) -> None:
    by = {grouping: await summarize_usage(owner, 1, grouping) for grouping in Grouping}
    for summary in by.values():
        assert sum(row.calls for row in summary.rows) == summary.total.calls == 4
        assert sum(row.total_tokens for row in summary.rows) == summary.total.total_tokens == 317
        assert (summary.total.failed_calls, summary.total.output_tokens) == (1, 2)
        assert (summary.total.cost_usd, summary.total.unknown_cost_calls) == (Decimal("0.30"), 1)
        assert summary.total.latency_ms_average == 10
    assert shown(by[Grouping.USAGE_TYPE]) == {
        "internal_ingestion": (2, 300, Decimal("0.30"), 0),
        "query": (2, 17, Decimal(0), 1),
    }
    assert shown(by[Grouping.MODEL]) == {
        "p/a": (3, 310, Decimal("0.30"), 1),
        "p/b": (1, 7, Decimal(0), 0),
    }
    assert set(shown(by[Grouping.PIPELINE])) == {"default"}
    assert set(shown(by[Grouping.USER])) == {"ann", "bob", None}
    assert set(shown(by[Grouping.SESSION])) == {str(JOB), None}
    assert set(shown(by[Grouping.TENANT])) == {"default"}
    assert [row.group for row in by[Grouping.DAY].rows] == ["2026-05-03", "2026-05-02", "2026-05-01"]


async def test_what_is_wholly_unknown_is_not_0_and_nothing_at_all_costs_nothing(owner: Database) -> None:
    day = await summarize_usage(
        owner, 1, Grouping.DAY, since=datetime(2026, 5, 2, tzinfo=UTC), until=datetime(2026, 5, 3, tzinfo=UTC)
    )
    assert shown(day) == {"2026-05-02": (1, 10, None, 1)}
    nothing = await summarize_usage(owner, 1, Grouping.DAY, since=datetime(2027, 1, 1, tzinfo=UTC))
    assert (nothing.rows, nothing.total.calls, nothing.total.cost_usd) == ([], 0, 0)
    assert nothing.total.latency_ms_average is None


async def test_days_are_those_of_the_time_zone(owner: Database) -> None:
    berlin = await summarize_usage(owner, 1, Grouping.DAY, time_zone="Europe/Berlin")
    assert {row.group: row.calls for row in berlin.rows} == {
        "2026-05-01": 1,
        "2026-05-02": 2,
        "2026-05-03": 1,
    }


async def test_over_all_tenants_for_those_who_may(owner: Database) -> None:
    everything = await summarize_usage(owner, None, Grouping.TENANT)
    assert {group: row[1] for group, row in shown(everything).items()} == {"acme": 1000, "default": 317}
    by_pipeline = await summarize_usage(owner, None, Grouping.PIPELINE)
    assert set(shown(by_pipeline)) == {"default/default", None}, "a pipeline that is gone has no name"
    async with Database(owner.url, role="embedmill_service") as service:
        for tenant_id in (None, 1, 2):
            seen = await summarize_usage(service.for_tenant(2, actor="t"), tenant_id, Grouping.TENANT)
            assert set(shown(seen)) == (set() if tenant_id == 1 else {"acme"})


async def test_more_groups_than_asked_for_are_summed_all_the_same(owner: Database) -> None:
    few = await summarize_usage(owner, 1, Grouping.DAY, limit=1)
    assert [row.group for row in few.rows] == ["2026-05-03"]
    assert (few.truncated, few.total.calls) == (True, 4)
    assert not (await summarize_usage(owner, 1, Grouping.DAY, limit=3)).truncated


async def test_what_cannot_be_is_refused(owner: Database) -> None:
    for zone in ("Nowhere/Atall", "", "\x00", "\ud800", "'; DROP TABLE x"):
        with pytest.raises(ConfigurationError, match="time zone"):
            await summarize_usage(owner, 1, Grouping.DAY, time_zone=zone)
    with pytest.raises(ConfigurationError, match="offset"):
        await summarize_usage(owner, 1, Grouping.DAY, since=datetime(2026, 5, 1))  # noqa: DTZ001
    with pytest.raises(ConfigurationError, match="limit"):
        await summarize_usage(owner, 1, Grouping.DAY, limit=0)
