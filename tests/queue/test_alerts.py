"""An alert is raised when its condition has held for long enough, once; it is resolved when it no longer holds, told
both times, and silent where somebody has seen it."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import ConfigurationError, ConflictError, NotFoundError
from embedmill.queue.alerts import AlertCursor, acknowledge, list_alerts
from tests.support.alerts import Watch, configure, open_watch
from tests.support.queue_rows import register_worker


@pytest.fixture
async def watch(app: App) -> Watch:
    return await open_watch(app)


async def trouble(app: App, pipeline: Pipeline, reason: str | None) -> None:
    """A source of records that cannot be read, or can again."""
    await app.database.fetch(
        "INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name) "
        "VALUES (%s, %s, 'shards', 'notes') ON CONFLICT DO NOTHING",
        (pipeline.tenant_id, pipeline.id),
    )
    await app.database.fetch("UPDATE embedmill.record_sources SET trouble = %s", (reason,))


async def silence(app: App, watch: Watch, seconds: float | None) -> None:
    alert = await watch.alert("source_trouble")
    await acknowledge(
        app.database, await app.tenant_id(), alert.id, with_installation=False, seconds=seconds, actor="ann"
    )


async def test_a_condition_must_hold_before_it_is_raised_and_be_gone_before_it_is_resolved(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await trouble(app, pipeline, "its table is gone")
    assert await watch.look(0) == set()
    assert await watch.look(45) == set()
    assert await watch.look(60) == {"source_trouble"}
    await trouble(app, pipeline, None)
    assert await watch.look(75) == {"source_trouble"}
    await trouble(app, pipeline, "its table is gone")
    assert await watch.look(90) == {"source_trouble"}, "it flaps"
    await trouble(app, pipeline, None)
    assert await watch.look(200) == {"source_trouble"}
    assert await watch.look(215) == set()
    assert await watch.told() == [
        ("alert.raised", "source_trouble", "critical"),
        ("alert.resolved", "source_trouble", "critical"),
    ]


async def test_what_is_gone_before_its_time_is_never_raised(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await trouble(app, pipeline, "its table is locked")
    await watch.look(0)
    await watch.look(50)
    await trouble(app, pipeline, None)
    for moment in (65, 80, 300):
        assert await watch.look(moment) == set()
    assert await watch.told() == []


async def test_a_time_in_which_nobody_looked_counts_for_nothing(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await trouble(app, pipeline, "its table is gone")
    await watch.look(0)
    assert await watch.look(3600) == set()
    assert await watch.look(3660) == {"source_trouble"}


async def test_the_message_says_what_is_so_and_since_when(app: App, pipeline: Pipeline, watch: Watch) -> None:
    await trouble(app, pipeline, "its table is gone")
    await watch.look(0)
    await watch.look(60)
    alert = await watch.alert("source_trouble")
    assert alert.message == (
        f"notes is not read as it should be since {alert.began_at:%Y-%m-%d %H:%M} UTC: its table is gone"
    )
    assert (alert.subject, alert.is_installations, alert.needs_attention) == ("notes", False, True)
    await trouble(app, pipeline, "it has another key now")
    await watch.look(75)
    later = await watch.alert("source_trouble")
    assert (later.id, later.raised_at) == (alert.id, alert.raised_at)
    assert later.message.endswith("it has another key now")
    assert later.seen_at > alert.seen_at


async def test_raised_again_it_is_another_alert(app: App, pipeline: Pipeline, watch: Watch) -> None:
    await configure(app, alert_after_seconds=0, alert_clear_seconds=0)
    await trouble(app, pipeline, "first")
    await watch.look(0)
    await trouble(app, pipeline, None)
    assert await watch.look(15) == set()
    await trouble(app, pipeline, "second")
    await watch.look(30)
    given = {"with_installation": True, "limit": 10}
    found = await list_alerts(app.database, pipeline.tenant_id, **given)  # type: ignore[arg-type]
    assert [(one.is_open, one.message[-6:]) for one in found] == [(True, "second"), (False, " first")]
    first_page = await list_alerts(app.database, pipeline.tenant_id, with_installation=True, limit=1)
    behind = AlertCursor(False, first_page[0].id)
    (other,) = await list_alerts(
        app.database, pipeline.tenant_id, with_installation=True, limit=1, after=behind
    )
    assert other == found[1]
    assert not await list_alerts(
        app.database, pipeline.tenant_id, with_installation=True, limit=9, after=AlertCursor(True, other.id)
    )


async def test_there_is_one_open_alert_however_many_look_at_once(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await configure(app, alert_after_seconds=0)
    await trouble(app, pipeline, "its table is gone")
    with psycopg.connect(app.database.url) as other:
        other.execute("SELECT embedmill.watch_alerts()")
        (said,) = (await app.database.fetch("SELECT embedmill.watch_alerts()"))[0]
        assert said == "somebody else looks"
    await watch.look(15)
    assert len(await watch.open()) == 1
    assert len(await watch.told()) == 1


async def test_one_that_becomes_critical_is_told_once_more(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await configure(app, alert_after_seconds=0)
    await app.database.fetch(
        "INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, source_type, source_id) "
        "VALUES (%s, %s, 'test', 'one')",
        (pipeline.tenant_id, pipeline.generation.id),
    )
    workers = [await register_worker(app.database) for _ in range(2)]
    refusal = psycopg.types.json.Jsonb({str(pipeline.generation.id): "the key is refused"})
    for worker in workers:
        await app.database.fetch(
            "UPDATE embedmill.embedding_queue_workers SET troubles = %s WHERE worker_id = %s",
            (refusal, worker),
        )
        await watch.look(len(await watch.told()))
    told = [("alert.raised", "provider_trouble", "warning"), ("alert.raised", "provider_trouble", "critical")]
    assert await watch.told() == told
    assert "2 of 2 workers leave pipeline standin alone" in (await watch.alert("provider_trouble")).message
    await watch.look(10)
    assert await watch.told() == told


async def test_acknowledged_it_is_silent_until_the_time_is_over_also_where_it_comes_back(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await configure(app, alert_after_seconds=0, alert_clear_seconds=0)
    await trouble(app, pipeline, "its table is gone")
    await watch.look(0)
    await silence(app, watch, 3600)
    await trouble(app, pipeline, None)
    await watch.look(15)
    await trouble(app, pipeline, "its table is gone")
    await watch.look(30)
    alert = await watch.alert("source_trouble")
    assert (alert.acknowledged_by, alert.needs_attention) == ("ann", False)
    assert [event[0] for event in await watch.told()] == ["alert.raised", "alert.resolved"]
    await watch.look(3700)
    assert (await watch.alert("source_trouble")).needs_attention
    assert [event[0] for event in await watch.told()] == ["alert.raised", "alert.resolved", "alert.raised"]


async def test_acknowledged_without_a_time_it_is_silent_until_it_is_resolved(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await configure(app, alert_after_seconds=0, alert_clear_seconds=0)
    await trouble(app, pipeline, "its table is gone")
    await watch.look(0)
    await silence(app, watch, None)
    await trouble(app, pipeline, None)
    await watch.look(15)
    await trouble(app, pipeline, "its table is gone")
    await watch.look(30)
    assert (await watch.alert("source_trouble")).needs_attention
    (record,) = await app.database.fetch(
        "SELECT actor, action, new_value ->> 'subject' FROM embedmill.audit_log WHERE action LIKE 'alert.%%'",
        {},
    )
    assert record == ("ann", "alert.acknowledge", "notes")


async def test_what_is_not_there_or_over_cannot_be_acknowledged(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await configure(app, alert_after_seconds=0, alert_clear_seconds=0)
    await trouble(app, pipeline, "its table is gone")
    await watch.look(0)
    alert_id = (await watch.alert("source_trouble")).id
    for seconds in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(ConfigurationError):
            await silence(app, watch, seconds)
    with pytest.raises(NotFoundError):
        await acknowledge(app.database, pipeline.tenant_id + 1, alert_id, with_installation=True, actor="eve")
    await trouble(app, pipeline, None)
    await watch.look(15)
    with pytest.raises(ConflictError):
        await acknowledge(app.database, pipeline.tenant_id, alert_id, with_installation=True, actor="ann")


async def test_what_a_process_reports_holds_as_long_as_it_goes_on_reporting(app: App, watch: Watch) -> None:
    report = (
        "SELECT embedmill.report_alert_sign('originals_unwritable', 'mill-1', 'critical', 'full since {since}', "
        "clock_timestamp() + make_interval(secs => %s))"
    )
    for moment in (0, 15, 30, 45, 75):
        await app.database.fetch(report, (moment,))
        await watch.look(moment)
    assert {alert.kind for alert in await watch.open()} == {"originals_unwritable"}
    assert await watch.look(190) == {"originals_unwritable"}
    assert await watch.look(210) == set()


async def test_the_installations_alerts_are_told_to_the_operators_tenant_and_only_seen_by_operators(
    app: App, watch: Watch
) -> None:
    await configure(app, alert_after_seconds=0)
    for _ in range(3):
        worker = await register_worker(app.database)
        await app.database.fetch(
            "UPDATE embedmill.embedding_queue_workers SET status = 'error', stopped_at = now() WHERE worker_id = %s",
            (worker,),
        )
    assert await watch.look(0) == {"workers_dying"}
    assert await watch.told() == []
    tenant_id = await app.tenant_id()
    for _ in range(2):
        await app.database.fetch("SELECT embedmill.tell_alerts(%s)", (tenant_id,))
    assert await watch.told() == [("alert.raised", "workers_dying", "warning")]
    assert not await list_alerts(app.database, tenant_id, with_installation=False, limit=10)


async def test_a_tenant_that_goes_takes_its_alerts_with_it(app: App, watch: Watch) -> None:
    (row,) = await app.database.fetch(
        "INSERT INTO embedmill.tenants (slug) VALUES (%s) RETURNING id", (f"t{uuid4().hex[:8]}",)
    )
    await app.database.fetch(
        "INSERT INTO embedmill.alert_signs (kind, tenant_id, subject, severity, message, numbers, began_at, seen_at) "
        "VALUES ('dead_letters', %s, '', 'warning', 'x', '{}', now() - interval '1 hour', now() + interval '1 day')",
        row,
    )
    await watch.look(0)
    await app.database.fetch("DELETE FROM embedmill.tenants WHERE id = %s", row)
    assert await app.database.fetch("SELECT FROM embedmill.alert_signs") == []
    assert await app.database.fetch("SELECT FROM embedmill.alerts") == []
