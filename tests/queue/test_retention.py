"""What is past its retention goes, step by step, and what is not stays."""

from __future__ import annotations

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.alerts import configure

OLD_AND_NEW = """
WITH ages AS (SELECT n, now() - n * interval '1 day' AS at FROM generate_series(0, 99) AS n),
e AS (INSERT INTO embedmill.events (tenant_id, type, payload, created_at)
      SELECT 1, 'job.completed', '{}', at FROM ages),
w AS (INSERT INTO embedmill.webhooks (tenant_id, url) VALUES (1, 'https://example.com') RETURNING id),
d AS (INSERT INTO embedmill.webhook_deliveries (tenant_id, webhook_id, event_type, payload, status, created_at)
      SELECT 1, w.id, 'job.completed', '{}', CASE WHEN n = 99 THEN 'pending' ELSE 'delivered' END, at FROM ages, w),
a AS (INSERT INTO embedmill.alerts
          (kind, tenant_id, subject, severity, message, began_at, raised_at, seen_at, resolved_at)
      SELECT 'stuck_queue', 1, n::text, 'critical', 'x', at, at, at, CASE WHEN n <> 99 THEN at END FROM ages),
l AS (INSERT INTO embedmill.dead_letters
          (tenant_id, generation_id, reason, error_message, created_at, resolved_at, resolution)
      SELECT 1, %(generation)s, 'x', 'x', at, CASE WHEN n <> 99 THEN at END, CASE WHEN n <> 99 THEN 'discarded' END
        FROM ages),
g AS (INSERT INTO embedmill.audit_log (at, actor, action, subject) SELECT at, 'ann', 'x', 'x' FROM ages)
INSERT INTO embedmill.idempotency_keys (tenant_id, key, request_hash, created_at) SELECT 1, n::text, '', at FROM ages
"""
TABLES = ("events", "webhook_deliveries", "alerts", "dead_letters", "audit_log", "idempotency_keys")


@pytest.fixture
async def aged(app: App, pipeline: Pipeline) -> App:
    """A row of each age up to 99 days in each table; the oldest ones are not done with."""
    await app.database.fetch("DELETE FROM embedmill.audit_log")
    await app.database.fetch(OLD_AND_NEW, {"generation": pipeline.generation.id})
    for name, kind in (
        ("events", "type"),
        ("webhook_deliveries", "event_type"),
    ):  # the letters tell of themselves
        await app.database.fetch(f"DELETE FROM embedmill.{name} WHERE {kind} = 'dead_letter.created'")
    return app


async def left(app: App) -> dict[str, int]:
    found = {}
    for name in TABLES:
        row = await app.database.fetch_one(f"SELECT count(*) FROM embedmill.{name}")
        found[name] = int(row[0]) if row else -1
    return found


async def step(app: App, most: int = 5000) -> str:
    row = await app.database.fetch_one("SELECT embedmill.drop_expired(%s)", (most,))
    assert row is not None
    return str(row[0])


async def test_each_is_kept_for_as_long_as_is_configured_and_what_waits_for_ever(aged: App) -> None:
    await step(aged)
    # What is a day, a week or ninety days old to the second is past it; of three the oldest is not done with.
    assert await left(aged) == {
        "events": 7,
        "webhook_deliveries": 91,
        "alerts": 91,
        "dead_letters": 91,
        "audit_log": 100,
        "idempotency_keys": 1,
    }
    assert await step(aged) == "nothing"


async def test_a_changed_retention_holds_from_the_next_step(aged: App) -> None:
    await configure(
        aged,
        events_retention_days=30,
        webhook_retention_days=20,
        alert_retention_days=10,
        history_retention_days=5,
        audit_log_retention_days=3,
    )
    await aged.database.fetch("DELETE FROM embedmill.audit_log WHERE actor = 'test'")
    await step(aged)
    assert await left(aged) == {
        "events": 30,
        "webhook_deliveries": 21,
        "alerts": 11,
        "dead_letters": 6,
        "audit_log": 3,
        "idempotency_keys": 1,
    }


async def test_a_step_takes_no_more_than_it_is_told_and_the_oldest_first(aged: App) -> None:
    assert await step(aged, 10) == (
        "10 events, 9 webhook deliveries, 9 alerts, 9 dead letters, 10 idempotency keys"
    )
    row = await aged.database.fetch_one(
        "SELECT round(extract(epoch FROM now() - min(created_at)) / 86400) FROM events"
    )
    assert row == (89,)


async def test_what_somebody_holds_is_left_for_the_next_step_and_not_waited_for(aged: App) -> None:
    with psycopg.connect(aged.database.url) as other:
        other.execute("SELECT FROM embedmill.events ORDER BY created_at LIMIT 5 FOR UPDATE")
        assert (await step(aged)).startswith("88 events")
    assert await step(aged) == "5 events"
