"""Alerts over REST: a tenant sees its own, an operator those of the installation besides; both are told to webhooks and
streams; seen once, silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from embedmill.access.keys import Role
from embedmill.queue.alert_watch import AlertWatch
from tests.support.alerts import configure
from tests.support.serving import Serving, serving

RAISE = """
INSERT INTO embedmill.alerts (kind, tenant_id, subject, severity, message, began_at, raised_at, seen_at, resolved_at)
SELECT 'stuck_queue', %(tenant)s, n::text, 'critical', 'work waits', now(), now(), now(),
       CASE WHEN n %% 2 = 0 THEN now() END
  FROM generate_series(1, %(count)s) AS n
"""


async def raise_some(service: Serving, count: int, tenant_id: int | None) -> None:
    await service.app.database.fetch(RAISE, {"count": count, "tenant": tenant_id})


def lead(url: str, until: str = "infinity") -> None:
    """Somebody leads: the service does not look by itself, and what a test has raised stays."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE embedmill.sweep_leader SET expires_at = %s", (until,))


@pytest.fixture
async def led(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """A service without workers, on a database in which somebody leads for ever."""
    lead(database)
    async with serving(database, tmp_path / "data", works=False) as one:
        yield one


async def seen(client: httpx2.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """All pages."""
    found: list[dict[str, Any]] = []
    while True:
        response = await client.get("/alerts", params=query)
        assert response.status_code == 200, response.text
        found += response.json()["alerts"]
        query["cursor"] = response.json()["nextCursor"]
        if query["cursor"] is None:
            return found


async def test_open_ones_come_first_then_those_that_were_resolved(led: Serving) -> None:
    await raise_some(led, 9, await led.app.tenant_id())
    subjects = [each["subject"] for each in await seen(led.client, state="all", limit=2)]
    assert subjects == ["9", "7", "5", "3", "1", "8", "6", "4", "2"]
    assert len(await seen(led.client)) == 5
    assert [each["subject"] for each in await seen(led.client, state="resolved", limit=3)] == [
        "8",
        "6",
        "4",
        "2",
    ]
    assert (await led.client.get("/alerts", params={"cursor": "nonsense"})).json()["code"] == "invalid_cursor"


async def test_a_tenant_sees_its_own_and_an_operator_the_installations_too(led: Serving) -> None:
    await raise_some(led, 1, await led.app.tenant_id())
    await raise_some(led, 1, None)
    assert {each["scope"] for each in await seen(led.client)} == {"tenant", "installation"}, "without any key"
    operator, admin = await led.client_of(Role.OPERATOR), await led.client_of(Role.ADMIN)
    assert {each["scope"] for each in await seen(operator)} == {"tenant", "installation"}
    assert {each["scope"] for each in await seen(admin)} == {"tenant"}
    (installations,) = [each for each in await seen(operator) if each["scope"] == "installation"]
    path = f"/alerts/{installations['alertId']}/acknowledge"
    assert (await admin.post(path)).status_code == 404
    assert (await operator.post(path)).json()["acknowledgedBy"].startswith("key ")


async def test_what_somebody_has_seen_is_silent_for_as_long_as_he_said(led: Serving) -> None:
    await raise_some(led, 2, await led.app.tenant_id())
    (alert,) = await seen(led.client)
    path = f"/alerts/{alert['alertId']}/acknowledge"
    answer = (await led.client.post(path, json={"seconds": 3600})).json()
    until = datetime.fromisoformat(answer["silencedUntil"])
    assert timedelta(minutes=59) < until - datetime.now(UTC) < timedelta(minutes=61)
    assert (await led.client.post(path)).json()["silencedUntil"] is None
    (resolved,) = await seen(led.client, state="resolved")
    assert (await led.client.post(f"/alerts/{resolved['alertId']}/acknowledge")).status_code == 409
    for wrong in ({"seconds": 0}, {"seconds": -1}, {"seconds": 1e12}, {"seconds": "4h"}, {"for": 1}, []):
        assert (await led.client.post(path, json=wrong)).status_code == 422, wrong
    for nobody in ("0", str(2**63), "x", "%00"):
        assert (await led.client.post(f"/alerts/{nobody}/acknowledge")).status_code == 422
    reader = await led.client_of(Role.READER)
    assert (await reader.post(path)).status_code == 403


async def test_a_service_without_workers_says_that_there_are_none_and_tells_the_operators_webhook(
    database: str, tmp_path: Path
) -> None:
    lead(database)
    async with serving(database, tmp_path / "data", works=False, allowed_hosts="127.0.0.1") as one:
        await configure(one.app, alert_after_seconds=0, alert_clear_seconds=0)
        made = await one.client.post("/webhooks", json={"url": "http://127.0.0.1:64999/hook"})
        assert made.status_code == 201, made.text
        await one.upload("a.txt", b"who reads this?")
        lead(database, "-infinity")
        watch = AlertWatch(one.service.operator, "default", one.service.originals_state)
        await watch.look()
        (alert,) = [each for each in await seen(one.client) if each["kind"] == "no_workers"]
        assert (alert["scope"], alert["severity"]) == ("installation", "critical")
        log = (await one.client.get(f"/webhooks/{made.json()['id']}/deliveries")).json()["deliveries"]
        (told,) = [each for each in log if each["eventType"] == "alert.raised"]
        assert told["payload"]["data"]["alertId"] == alert["alertId"]
        async with one.client.stream("GET", "/events", headers={"Last-Event-ID": "0-0"}) as stream:
            async for line in stream.aiter_lines():
                if line == "event: alert.raised":
                    break
        await one.app.database.fetch("DELETE FROM embedmill.parse_queue")
        await watch.look()
        assert await seen(one.client) == []
        log = (await one.client.get(f"/webhooks/{made.json()['id']}/deliveries")).json()["deliveries"]
        assert {"alert.raised", "alert.resolved"} <= {each["eventType"] for each in log}


async def test_a_store_that_cannot_be_written_is_told(led: Serving) -> None:
    async def full() -> str:
        return "the disk is full"

    await configure(led.app, alert_after_seconds=0)
    await AlertWatch(led.service.operator, "default", full, hostname="mill-1").look()
    await led.app.database.fetch("SELECT embedmill.watch_alerts()")
    (alert,) = await seen(led.client)
    assert (alert["kind"], alert["subject"], alert["scope"]) == (
        "originals_unwritable",
        "mill-1",
        "installation",
    )
    assert alert["message"].endswith("the disk is full")
    assert "{since}" not in alert["message"]
