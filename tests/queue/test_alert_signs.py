"""What alerts are raised for: each is there when it is so, and not when it only looks like it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.queue.items import Return, Waiting, return_items
from tests.support.alerts import Watch, configure, open_watch
from tests.support.queue_rows import claim, enqueue, grow_older, register_worker

DEAD = Return(Waiting.PENDING, 100, 0, "provider_unavailable", "answered 503")


@pytest.fixture
async def watch(app: App) -> Watch:
    """Whose looks raise at once, and resolve at once."""
    await configure(app, alert_after_seconds=0, alert_clear_seconds=0)
    return await open_watch(app)


async def fold(app: App) -> None:
    await app.database.fetch("SELECT embedmill.fold_queue_changes()")


async def end(app: App, pipeline: Pipeline, *, completed: int = 0, failed: int = 0) -> None:
    """So many items that came to their end now."""
    await app.database.fetch(
        "INSERT INTO embedmill.queue_changes (tenant_id, generation_id, day, status, items) "
        "SELECT %s, %s, (now() AT TIME ZONE 'UTC')::date, k, n FROM unnest(%s::text[], %s::integer[]) AS u (k, n)",
        (pipeline.tenant_id, pipeline.generation.id, ["completed", "failed"], [completed, failed]),
    )
    await fold(app)


async def test_without_workers_nothing_is_wrong_until_work_waits(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    assert await watch.look(0) == set()
    await enqueue(app.database, pipeline.generation.id, 1)
    assert await watch.look(1) == {"no_workers"}
    assert "`embedmill worker`" in (await watch.alert("no_workers")).message
    await register_worker(app.database)
    assert await watch.look(2) == set()


async def test_a_worker_whose_heart_stopped_is_none(app: App, pipeline: Pipeline, watch: Watch) -> None:
    await enqueue(app.database, pipeline.generation.id, 1)
    await register_worker(app.database, beat_seconds_ago=60)
    assert await watch.look(1) == {"no_workers"}


async def test_what_is_paused_or_due_later_does_not_wait(app: App, pipeline: Pipeline, watch: Watch) -> None:
    await enqueue(app.database, pipeline.generation.id, 1, available_in=3600)
    assert await watch.look(1) == set()
    await enqueue(app.database, pipeline.generation.id, 1)
    await app.database.fetch("UPDATE embedmill.pipelines SET paused_at = now()")
    assert await watch.look(2) == set()


async def test_a_queue_that_is_off_is_told_where_work_waits(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await register_worker(app.database)
    await configure(app, queue_enabled=False)
    assert await watch.look(0) == set()
    await enqueue(app.database, pipeline.generation.id, 1)
    await grow_older(app.database, 3600)
    assert await watch.look(1) == {"queue_off"}


async def test_a_queue_is_stuck_where_work_waits_and_nothing_is_done(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await register_worker(app.database)
    await enqueue(app.database, pipeline.generation.id, 3)
    assert await watch.look(1) == set()
    await grow_older(app.database, 900)
    assert await watch.look(2) == {"stuck_queue"}
    await app.database.fetch(
        "INSERT INTO embedmill.embedding_minutes (minute, generation_id, tenant_id, embedded) "
        "VALUES (date_trunc('minute', now()), %s, %s, 1)",
        (pipeline.generation.id, pipeline.tenant_id),
    )
    assert await watch.look(3) == set(), "a long queue that is worked on is not stuck"
    await app.database.fetch("UPDATE embedmill.embedding_minutes SET minute = minute - interval '16 minutes'")
    assert await watch.look(4) == {"stuck_queue"}
    await end(app, pipeline, completed=1)
    assert await watch.look(5) == set(), "items that end without a vector are work too"
    await configure(app, alert_waiting_seconds=0)
    await app.database.fetch("DELETE FROM embedmill.queue_counts")
    assert await watch.look(6) == set()


async def test_without_workers_the_tenant_is_told_that_its_work_is_stuck(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await enqueue(app.database, pipeline.generation.id, 1)
    await grow_older(app.database, 1000)
    assert await watch.look(1) == {"no_workers", "stuck_queue"}
    assert "no worker is alive" in (await watch.alert("stuck_queue")).message


async def test_a_quota_is_exhausted_where_it_holds_work_back_for_long(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await configure(app, alert_clear_seconds=120)
    await register_worker(app.database, heartbeat_ms=3_600_000)
    await enqueue(app.database, pipeline.generation.id, 3)
    await app.database.fetch(
        "SELECT embedmill.cool_down(quota_key, 3600000, 'answered 429') FROM embedmill.quotas"
    )
    for moment in range(1, 900, 100):
        assert await watch.look(moment) == set()
    await grow_older(app.database, 900)
    assert await watch.look(905) == {"quota_exhausted"}, "and it is not called stuck besides"
    alert = await watch.alert("quota_exhausted")
    assert alert.subject == pipeline.quota_key
    assert f"`embedmill quota set {pipeline.quota_key}`" in alert.message
    assert "answered 429" in alert.message


async def test_the_failure_rate_is_that_of_the_last_minutes(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await end(app, pipeline, completed=10, failed=500)
    await watch.look(0)
    await end(app, pipeline, completed=10, failed=9)
    assert await watch.look(60) == set(), "too few to say"
    await end(app, pipeline, completed=21)
    assert await watch.look(120) == {"failure_rate"}
    alert = await watch.alert("failure_rate")
    assert (alert.severity, alert.numbers["failed"], alert.numbers["ended"]) == ("warning", 9, 40)
    await end(app, pipeline, failed=40)
    await watch.look(180)
    assert (await watch.alert("failure_rate")).severity == "critical"
    await end(app, pipeline, completed=1000)
    assert await watch.look(240) == set()


async def test_what_failed_yesterday_is_no_failure_of_today(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await end(app, pipeline, failed=100)
    await watch.look(0)
    await app.database.fetch("UPDATE embedmill.queue_counts SET day = day - 1 WHERE status = 'failed'")
    await end(app, pipeline, completed=30)
    assert await watch.look(60) == set()


async def test_dead_letters_are_told_where_many_come_at_once(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await configure(app, alert_dead_letters=3)
    await register_worker(app.database)
    for expected in (set(), {"dead_letters"}):
        await enqueue(app.database, pipeline.generation.id, 2)
        items = await claim(app.database, pipeline.generation.id)
        assert await return_items(app.database, items, DEAD) == {item.id for item in items}
        assert await watch.look(len(expected)) == expected
    assert "4 dead letters" in (await watch.alert("dead_letters")).message
    assert "provider_unavailable" in (await watch.alert("dead_letters")).message
    await app.database.fetch(
        "UPDATE embedmill.dead_letters SET resolved_at = now(), resolution = 'discarded'"
    )
    assert await watch.look(2) == set()


async def test_a_budget_is_told_before_it_is_reached_and_when(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await app.database.fetch("SELECT embedmill.set_budget(%s, NULL, 'month', 10)", (pipeline.tenant_id,))
    assert await watch.look(0) == set()
    await app.database.fetch("UPDATE embedmill.budgets SET spent_usd = 8")
    assert await watch.look(1) == {"budget_near"}
    await app.database.fetch("UPDATE embedmill.budgets SET spent_usd = 10")
    await app.database.fetch("SELECT embedmill.sweep_budgets()")
    assert await watch.look(2) == {"budget_reached"}
    assert (await watch.alert("budget_reached")).severity == "critical"
    await app.database.fetch("SELECT embedmill.set_budget(%s, NULL, 'month', 100)", (pipeline.tenant_id,))
    assert await watch.look(3) == set()


async def test_a_transaction_that_somebody_forgot_is_told(app: App, watch: Watch) -> None:
    with psycopg.connect(app.database.url, application_name="a forgotten console") as forgotten:
        forgotten.execute("SELECT pg_current_xact_id()")
        assert await watch.look(3500) == set()
        assert await watch.look(3700) == {"oldest_xmin"}
        alert = await watch.alert("oldest_xmin")
        assert "a forgotten console" in alert.message
        assert f"pg_terminate_backend({forgotten.info.backend_pid})" in alert.message
        assert alert.is_installations
    assert await watch.look(3800) == set()


async def test_a_webhook_that_takes_nothing_is_told_by_its_host_alone(app: App, watch: Watch) -> None:
    tenant_id = await app.tenant_id()
    ((webhook_id,),) = await app.database.fetch(
        "INSERT INTO embedmill.webhooks (tenant_id, url) "
        "VALUES (%s, 'https://ann:pass-word@hooks.example.com/secret-path') RETURNING id",
        (tenant_id,),
    )
    add = (
        "INSERT INTO embedmill.webhook_deliveries (tenant_id, webhook_id, event_type, payload, attempts, error, "
        "next_attempt_at) VALUES (%s, %s, 'job.completed', '{}', %s, 'it answered 500', now() + %s)"
    )
    await app.database.fetch(add, (tenant_id, webhook_id, 2, timedelta(minutes=5)))
    assert await watch.look(0) == set()
    await app.database.fetch(add, (tenant_id, webhook_id, 3, timedelta(minutes=30)))
    assert await watch.look(1) == {"webhook_failing"}
    alert = await watch.alert("webhook_failing")
    assert "hooks.example.com" in alert.message
    assert "secret-path" not in alert.message
    assert "pass-word" not in alert.message
    await app.database.fetch("UPDATE embedmill.webhooks SET is_active = false")
    assert await watch.look(2) == set(), "a person switched it off"
    await app.database.fetch("UPDATE embedmill.webhooks SET disabled_reason = 'it answered 410'")
    assert await watch.look(3) == {"webhook_failing"}


async def test_what_an_audit_found_is_told_until_it_is_mended(app: App, watch: Watch) -> None:
    tenant_id = await app.tenant_id()
    for number, mended in enumerate((0, 3)):
        await app.database.fetch(
            "INSERT INTO embedmill.audits (tenant_id, started_at, ended_at, is_repair, findings, actor) "
            "VALUES (%s, %s, now(), true, %s, 'test')",
            (
                tenant_id,
                datetime.now(UTC) + timedelta(seconds=number),
                psycopg.types.json.Jsonb([{"kind": "missing_vector", "count": 3, "mended": mended}]),
            ),
        )
        assert await watch.look(number) == (set() if mended else {"audit_findings"})


async def test_uploads_and_changes_that_nobody_reads_are_told(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await register_worker(app.database)
    await app.database.fetch(
        "INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name) VALUES (%s, %s, 'shards', 'notes')",
        (pipeline.tenant_id, pipeline.id),
    )
    await app.database.fetch(
        "INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys, changed_at) "
        "SELECT id, tenant_id, 'I', '{1}', now() - interval '1 hour' FROM embedmill.record_sources"
    )
    assert await watch.look(0) == {"stuck_source"}
    await app.database.fetch("DELETE FROM embedmill.record_changes")
    job_id = uuid4()
    await app.database.fetch(
        "WITH d AS (INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name) "
        "           VALUES (%(tenant)s, %(pipeline)s, 'upload', 'a', 'a') RETURNING id), "
        "j AS (INSERT INTO embedmill.ingestion_jobs (id, tenant_id, pipeline_id, document_id) "
        "      SELECT %(job)s, %(tenant)s, %(pipeline)s, id FROM d RETURNING id) "
        "INSERT INTO embedmill.parse_queue (job_id, tenant_id, priority, available_at) "
        "SELECT id, %(tenant)s, 'low', now() - interval '1 hour' FROM j",
        {"tenant": pipeline.tenant_id, "pipeline": pipeline.id, "job": job_id},
    )
    assert await watch.look(1) == {"stuck_uploads"}
