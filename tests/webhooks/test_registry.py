"""Webhooks as a person handles them: made, changed, tested, looked into, sent again; each tenant its own."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from embedmill.adapters.outbound.poster import GuardedPoster
from embedmill.database.pool import Database
from embedmill.errors import AddressRefusedError, ConfigurationError, NotFoundError
from embedmill.ports import WebhookPoster
from embedmill.webhooks.attempts import send_test
from embedmill.webhooks.deliveries import (
    DeliveryCursor,
    delete_old_deliveries,
    get_delivery,
    list_deliveries,
    redeliver,
    redeliver_failed,
)
from embedmill.webhooks.registry import (
    MAX_WEBHOOKS,
    create_webhook,
    delete_webhook,
    get_webhook,
    list_webhooks,
    rotate_secret,
    update_webhook,
)
from embedmill.webhooks.signing import WebhookSecrets
from tests.adapters.outbound.server import answer
from tests.webhooks.conftest import ACTOR, Outbox, receiving

URL = "http://127.0.0.1:9999/hook?token=secret"


async def test_a_webhook_is_made_changed_and_deleted_and_each_is_written_down(outbox: Outbox) -> None:
    database, tenant_id = outbox.database, outbox.tenant_id
    made = await outbox.webhook(URL, "job.failed", "job.completed", "job.failed")
    assert (made.event_types, made.is_active, made.secret_version) == (
        ("job.completed", "job.failed"),
        True,
        1,
    )
    assert await list_webhooks(database, tenant_id) == [made]
    changed = await update_webhook(
        database,
        tenant_id,
        made.id,
        outbox.poster,
        event_types=[],
        description="all",
        is_active=False,
        actor=ACTOR,
    )
    assert (changed.url, changed.event_types, changed.description) == (URL, (), "all")
    assert (changed.is_active, changed.disabled_reason) == (False, None)
    assert await get_webhook(database, tenant_id, made.id) == changed
    await rotate_secret(database, tenant_id, made.id, actor=ACTOR)
    await delete_webhook(database, tenant_id, made.id, actor=ACTOR)
    assert await list_webhooks(database, tenant_id) == []
    audit = await database.fetch(
        "SELECT actor, action, subject, old_value::text || new_value::text FROM embedmill.audit_log ORDER BY id"
    )
    assert [row[1] for row in audit] == [
        f"webhook.{act}" for act in ("create", "update", "rotate_secret", "delete")
    ]
    assert {(row[0], row[2]) for row in audit} == {(ACTOR, f"webhook {made.id}")}
    assert "token" not in str(audit)


async def test_what_is_not_there_is_not_found(outbox: Outbox) -> None:
    database, tenant_id, nobody = outbox.database, outbox.tenant_id, uuid4()
    for asked in (
        get_webhook(database, tenant_id, nobody),
        update_webhook(database, tenant_id, nobody, outbox.poster, description="x", actor=ACTOR),
        rotate_secret(database, tenant_id, nobody, actor=ACTOR),
        delete_webhook(database, tenant_id, nobody, actor=ACTOR),
        list_deliveries(database, tenant_id, nobody, limit=1),
        get_delivery(database, tenant_id, nobody),
        redeliver(database, tenant_id, nobody, actor=ACTOR),
        redeliver_failed(database, tenant_id, nobody, since=datetime.now(UTC), actor=ACTOR),
        send_test(database, tenant_id, nobody, outbox.poster, outbox.secrets, at=datetime.now(UTC)),
    ):
        with pytest.raises(NotFoundError):
            await asked


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/", "http://127.0.0.2/", "ftp://example.com/", "nonsense", "http://10.0.0.1/"],
)
async def test_a_url_that_is_not_called_is_refused_when_it_is_given(outbox: Outbox, url: str) -> None:
    with pytest.raises(AddressRefusedError):
        await outbox.webhook(url)
    webhook = await outbox.webhook(URL)
    with pytest.raises(AddressRefusedError):
        await update_webhook(
            outbox.database, outbox.tenant_id, webhook.id, outbox.poster, url=url, actor=ACTOR
        )
    assert [found.url for found in await list_webhooks(outbox.database, outbox.tenant_id)] == [URL]


async def test_what_else_is_wrong_is_refused(outbox: Outbox) -> None:
    with pytest.raises(ConfigurationError, match=r"no event type 'job\.done': choose from job\.completed"):
        await outbox.webhook(URL, "job.done")
    with pytest.raises(ConfigurationError, match="longer than 2000 bytes"):
        await outbox.webhook(URL + "a" * 2000)
    for description in ("a" * 501, "\0"):
        with pytest.raises(ConfigurationError, match="description"):
            await create_webhook(
                outbox.database,
                outbox.tenant_id,
                outbox.poster,
                url=URL,
                description=description,
                actor=ACTOR,
            )


async def test_a_tenant_has_so_many_and_no_more(outbox: Outbox) -> None:
    for _ in range(MAX_WEBHOOKS):
        await outbox.webhook(URL)
    with pytest.raises(ConfigurationError, match="delete one"):
        await outbox.webhook(URL)


async def test_switched_off_what_waits_ends_and_may_be_sent_again(outbox: Outbox) -> None:
    database, tenant_id = outbox.database, outbox.tenant_id
    async with receiving() as receiver:
        webhook = await outbox.webhook(receiver.url())
        deliveries = [await outbox.put(webhook, number) for number in range(3)]
        await update_webhook(database, tenant_id, webhook.id, outbox.poster, is_active=False, actor=ACTOR)
        assert [await outbox.state(delivery) for delivery in deliveries] == [("failed", 0)] * 3
        with pytest.raises(ConfigurationError, match="switch it on first"):
            await redeliver(database, tenant_id, deliveries[0], actor=ACTOR)
        await update_webhook(database, tenant_id, webhook.id, outbox.poster, is_active=True, actor=ACTOR)
        again = await redeliver(database, tenant_id, deliveries[0], actor=ACTOR)
        assert (again.status, again.error, again.ended_at) == ("pending", None, None)
        with pytest.raises(ConfigurationError, match="still under way"):
            await redeliver(database, tenant_id, deliveries[0], actor=ACTOR)
        since = datetime.now(UTC) - timedelta(hours=1)
        assert await redeliver_failed(database, tenant_id, webhook.id, since=since, actor=ACTOR) == 2
        async with outbox.sending():
            for delivery in deliveries:
                await outbox.until_state(delivery, ("delivered", 1))
        # One that arrived may be wanted again all the same.
        await redeliver(database, tenant_id, deliveries[0], actor=ACTOR)
        async with outbox.sending():
            await outbox.until_state(deliveries[0], ("delivered", 1))
    assert sorted(receiver.ids()) == sorted(map(str, [*deliveries, deliveries[0]]))


async def test_a_test_call_is_sent_at_once_and_tells_what_came_back(outbox: Outbox) -> None:
    database, tenant_id = outbox.database, outbox.tenant_id
    async with receiving(answer("200 OK"), answer("500 Oops", b"broken")) as receiver:
        webhook = await outbox.webhook(receiver.url(), "job.failed")
        await update_webhook(database, tenant_id, webhook.id, outbox.poster, is_active=False, actor=ACTOR)
        now = datetime.now(UTC)
        good, answered = await send_test(
            database, tenant_id, webhook.id, outbox.poster, outbox.secrets, at=now
        )
        assert (answered.status, answered.problem) == (200, None)
        bad, answered = await send_test(
            database, tenant_id, webhook.id, outbox.poster, outbox.secrets, at=now
        )
        assert (answered.status, answered.problem) == (500, "answered 500 Oops: broken")
    assert (await outbox.state(good), await outbox.state(bad)) == (("delivered", 1), ("failed", 1))
    payloads = receiver.verify(outbox.secrets.secret_for(webhook.id, 1))
    assert [payload["type"] for payload in payloads] == ["test", "test"]
    assert datetime.fromisoformat(str(payloads[0]["timestamp"])).tzinfo is not None
    assert payloads[0]["data"]["webhookId"] == str(webhook.id)  # type: ignore[index]
    assert (await get_webhook(database, tenant_id, webhook.id)).failures == 0
    await update_webhook(database, tenant_id, webhook.id, outbox.poster, is_active=True, actor=ACTOR)
    with pytest.raises(ConfigurationError, match="make a new one"):
        await redeliver(database, tenant_id, bad, actor=ACTOR)


async def test_the_log_is_read_page_by_page_also_where_times_are_equal(outbox: Outbox) -> None:
    database, tenant_id = outbox.database, outbox.tenant_id
    webhook, other = await outbox.webhook(URL), await outbox.webhook(URL)
    await outbox.put(other)
    deliveries = {await outbox.put(webhook, number) for number in range(25)}
    await database.fetch(
        "UPDATE embedmill.webhook_deliveries SET created_at = date_trunc('day', created_at), status ="
        " CASE WHEN (payload -> 'data' ->> 'number')::int < 5 THEN 'failed' ELSE 'pending' END"
    )
    seen: list[UUID] = []
    before = None
    while page := await list_deliveries(database, tenant_id, webhook.id, limit=10, before=before):
        seen += [delivery.id for delivery in page]
        before = DeliveryCursor(page[-1].created_at, page[-1].id)
    assert (len(seen), set(seen)) == (25, deliveries)
    failed = await list_deliveries(database, tenant_id, webhook.id, statuses=["failed"], limit=10)
    assert [delivery.status for delivery in failed] == ["failed"] * 5


async def test_old_deliveries_that_ended_are_deleted(outbox: Outbox) -> None:
    webhook = await outbox.webhook(URL)
    kept = [await outbox.put(webhook), await outbox.put(webhook)]
    gone = await outbox.put(webhook)
    await outbox.database.fetch(
        "UPDATE embedmill.webhook_deliveries SET created_at = now() - interval '31 days',"
        " status = CASE WHEN id = %s THEN 'delivered' ELSE status END WHERE id <> %s",
        (gone, kept[0]),
    )
    assert await delete_old_deliveries(outbox.database, days=30) == 1
    left = await list_deliveries(outbox.database, outbox.tenant_id, webhook.id, limit=10)
    assert {delivery.id for delivery in left} == set(kept)


async def test_one_tenant_reaches_nothing_of_another_by_id_or_by_role(outbox: Outbox, database: str) -> None:
    row = await outbox.database.fetch_one(
        "INSERT INTO embedmill.tenants (slug) VALUES ('other') RETURNING id"
    )
    assert row is not None
    webhook = await outbox.webhook(URL)
    delivery = await outbox.put(webhook)
    async with Database(database, role="embedmill_service") as service:
        theirs, ours = (service.for_tenant(which, actor=ACTOR) for which in (row[0], outbox.tenant_id))
        assert await list_webhooks(theirs, outbox.tenant_id) == []
        for connection, tenant_id in ((theirs, row[0]), (theirs, outbox.tenant_id), (ours, row[0])):
            with pytest.raises(NotFoundError):
                await get_webhook(connection, tenant_id, webhook.id)
            with pytest.raises(NotFoundError):
                await delete_webhook(connection, tenant_id, webhook.id, actor=ACTOR)
            with pytest.raises(NotFoundError):
                await get_delivery(connection, tenant_id, delivery)
        made = await create_webhook(theirs, row[0], outbox.poster, url=URL, actor=ACTOR)
        assert await list_webhooks(theirs, row[0]) == [made]
        _, came_back = await send_test(
            theirs, row[0], made.id, outbox.poster, outbox.secrets, at=datetime.now(UTC)
        )
        assert came_back.status is None
        await update_webhook(theirs, row[0], made.id, outbox.poster, is_active=False, actor=ACTOR)
        assert await list_webhooks(ours, outbox.tenant_id) == [webhook]
    assert await outbox.state(delivery) == ("pending", 0)


def test_secrets_are_derived_and_differ(outbox: Outbox) -> None:
    one, other = uuid4(), uuid4()
    again = WebhookSecrets(b"p" * 32)
    assert again.secret_for(one, 1) == outbox.secrets.secret_for(one, 1)
    found = {outbox.secrets.secret_for(which, version) for which in (one, other) for version in (1, 2)}
    found.add(WebhookSecrets(b"q" * 32).secret_for(one, 1))
    assert len(found) == 5
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"))) == 32 for secret in found)
    assert "p" * 32 not in repr(outbox.secrets)
    with pytest.raises(ConfigurationError, match="at random"):
        WebhookSecrets(b"short")


def test_the_poster_is_what_the_port_asks_for() -> None:
    assert isinstance(GuardedPoster(), WebhookPoster)
