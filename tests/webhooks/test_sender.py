"""The outbox is emptied: each message arrives, signed, whatever the receivers and the senders go through."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from embedmill.database.patience import patiently
from embedmill.errors import ConfigurationError
from embedmill.webhooks.deliveries import get_delivery, redeliver_failed
from embedmill.webhooks.registry import rotate_secret, update_webhook
from tests.adapters.outbound.server import answer, hang
from tests.webhooks.conftest import ACTOR, Outbox, held_until, receiving


async def test_a_message_arrives_as_the_standard_says(outbox: Outbox) -> None:
    async with receiving() as receiver:
        webhook = await outbox.webhook(receiver.url())
        delivery = await outbox.put(webhook)
        async with outbox.sending():
            await outbox.until_state(delivery, ("delivered", 1))
    (request,) = receiver.messages
    assert request.headers["content-type"] == "application/json"
    assert receiver.ids() == [str(delivery)]
    (payload,) = receiver.verify(outbox.secrets.secret_for(webhook.id, 1))
    assert payload == {
        "type": "job.completed",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"number": 0, "ä": 1.5},
    }
    logged = await get_delivery(outbox.database, outbox.tenant_id, delivery)
    assert (logged.response_status, logged.error, logged.next_attempt_at) == (204, None, None)
    assert logged.ended_at is not None


async def test_after_a_rotation_both_secrets_verify_and_the_one_before_does_not(outbox: Outbox) -> None:
    async with receiving() as receiver:
        webhook = await outbox.webhook(receiver.url())
        for version in (2, 3):
            rotated = await rotate_secret(outbox.database, outbox.tenant_id, webhook.id, actor=ACTOR)
            assert rotated.secret_version == version
        delivery = await outbox.put(webhook)
        async with outbox.sending():
            await outbox.until_state(delivery, ("delivered", 1))
    for version in (2, 3):
        assert receiver.verify(outbox.secrets.secret_for(webhook.id, version))
    with pytest.raises(Exception, match="No matching signature"):
        receiver.verify(outbox.secrets.secret_for(webhook.id, 1))


async def test_a_lease_that_ran_out_is_sent_again_under_the_same_id(outbox: Outbox) -> None:
    async with receiving(hang, answer("200 OK")) as receiver:
        delivery = await outbox.put(await outbox.webhook(receiver.url()))
        sender = asyncio.create_task(outbox.sender().run())
        await outbox.until(lambda: receiver.messages)
        sender.cancel()  # as kill -9 leaves it: claimed, sent, nothing written
        await asyncio.gather(sender, return_exceptions=True)
        assert await outbox.state(delivery) == ("pending", 1)
        assert 50 < await outbox.wait(delivery) <= 60
        await outbox.make_due()
        async with outbox.sending():
            await outbox.until_state(delivery, ("delivered", 2))
    assert receiver.ids() == [str(delivery)] * 2


async def test_an_answer_that_comes_after_the_lease_counts_if_it_is_good(outbox: Outbox) -> None:
    release = asyncio.Event()
    async with receiving(held_until(release, answer("200 OK")), answer("500 Oops")) as receiver:
        delivery = await outbox.put(await outbox.webhook(receiver.url()))
        async with outbox.sending():
            await outbox.until(lambda: receiver.messages)
            await outbox.make_due()
            async with outbox.sending():
                await outbox.until(lambda: len(receiver.messages) == 2)
            assert (await outbox.state(delivery))[0] == "pending"
            release.set()
            await outbox.until_state(delivery, ("delivered", 2))


@pytest.mark.parametrize("reply", [answer("500 Oops"), answer("503 Busy", retry_after="1")])
async def test_a_late_failure_does_not_touch_the_attempt_after_it(outbox: Outbox, reply: bytes) -> None:
    release = asyncio.Event()
    async with receiving(held_until(release, reply)) as receiver:
        delivery = await outbox.put(await outbox.webhook(receiver.url()))
        async with outbox.sending():
            await outbox.until(lambda: receiver.messages)
            await outbox.database.fetch(
                "UPDATE embedmill.webhook_deliveries SET attempts = 2, next_attempt_at = now() + interval '1 hour'"
            )
            release.set()
    assert await outbox.state(delivery) == ("pending", 2)
    assert await outbox.wait(delivery) > 3000


async def test_two_senders_send_each_message_once(outbox: Outbox) -> None:
    async with receiving() as receiver:
        webhooks = [await outbox.webhook(receiver.url()) for _ in range(5)]
        deliveries = [await outbox.put(webhooks[number % 5], number) for number in range(200)]
        async with outbox.sending(calls_at_once=7), outbox.sending(calls_at_once=9):
            for delivery in deliveries:
                await outbox.until_state(delivery, ("delivered", 1))
    assert sorted(receiver.ids()) == sorted(map(str, deliveries))


async def test_endpoints_that_hang_hold_up_nobody(outbox: Outbox) -> None:
    release = asyncio.Event()
    async with receiving(held_until(release, answer())) as hanging, receiving() as receiver:
        for _ in range(3):
            slow = await outbox.webhook(hanging.url())
            for number in range(20):
                await outbox.put(slow, number)
        async with outbox.sending(calls_at_once=16, calls_per_webhook=4):
            await outbox.until(lambda: len(hanging.messages) == 12)
            healthy = await outbox.webhook(receiver.url())
            deliveries = [await outbox.put(healthy, number) for number in range(30)]
            for delivery in deliveries:
                await outbox.until_state(delivery, ("delivered", 1))
            assert len(hanging.messages) == 12
            release.set()


async def test_endpoints_that_failed_before_get_one_call_at_a_time_and_half_of_all(outbox: Outbox) -> None:
    release = asyncio.Event()
    held = held_until(release, answer("500 Oops"))
    async with receiving(*[answer("500 Oops")] * 8, held) as bad, receiving() as receiver:
        webhooks = [await outbox.webhook(bad.url()) for _ in range(8)]
        for webhook in webhooks:
            await outbox.put(webhook)
        async with outbox.sending(calls_at_once=8):
            await outbox.until(lambda: len(bad.messages) == 8)
            for webhook in webhooks:
                for number in range(5):
                    await outbox.put(webhook, number)
            await outbox.until(lambda: len(bad.messages) == 12)
            healthy = await outbox.webhook(receiver.url())
            deliveries = [await outbox.put(healthy, number) for number in range(20)]
            for delivery in deliveries:
                await outbox.until_state(delivery, ("delivered", 1))
            assert len(bad.messages) == 12
            release.set()


async def test_a_stop_lets_the_call_under_way_end(outbox: Outbox) -> None:
    release = asyncio.Event()
    async with receiving(held_until(release, answer("200 OK"))) as receiver:
        webhook = await outbox.webhook(receiver.url())
        delivery = await outbox.put(webhook)
        async with outbox.sending() as sender:
            await outbox.until(lambda: receiver.messages)
            sender.stop()
            later = await outbox.put(webhook)
            release.set()
    assert await outbox.state(delivery) == ("delivered", 1)
    assert await outbox.state(later) == ("pending", 0)


async def test_what_was_written_for_a_webhook_that_is_off_does_not_wait_for_ever(outbox: Outbox) -> None:
    async with receiving() as receiver:
        webhook = await outbox.webhook(receiver.url())
        await update_webhook(
            outbox.database, outbox.tenant_id, webhook.id, outbox.poster, is_active=False, actor=ACTOR
        )
        delivery = await outbox.put(webhook)
        async with outbox.sending():
            await outbox.until_state(delivery, ("failed", 0))
    assert receiver.messages == []


async def test_the_sender_outlives_connections_that_are_cut(outbox: Outbox, database: str) -> None:
    release = asyncio.Event()
    async with receiving(held_until(release, answer("200 OK"))) as receiver:
        webhook = await outbox.webhook(receiver.url())
        delivery = await outbox.put(webhook)
        async with outbox.sending():
            await outbox.until(lambda: receiver.messages)
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            release.set()
            await patiently(lambda: outbox.until_state(delivery, ("delivered", 1)))
            later = await patiently(lambda: outbox.put(webhook))
            await patiently(lambda: outbox.until_state(later, ("delivered", 1)))


async def test_switching_and_sending_at_once_loses_nothing_and_locks_nobody_out(outbox: Outbox) -> None:
    replies = [answer("500 Oops"), answer("200 OK"), answer("410 Gone"), answer("503 Busy")] * 30
    async with receiving(*replies, answer("200 OK")) as receiver:
        webhooks = [await outbox.webhook(receiver.url()) for _ in range(3)]
        for number in range(120):
            await outbox.put(webhooks[number % 3], number)
        async with outbox.sending(), outbox.sending():
            for _ in range(4):
                for webhook in webhooks:
                    for is_active in (False, True):
                        await update_webhook(
                            outbox.database,
                            outbox.tenant_id,
                            webhook.id,
                            outbox.poster,
                            is_active=is_active,
                            actor=ACTOR,
                        )
                    since = datetime.now(UTC) - timedelta(hours=1)
                    # A 410 may have switched it off again.
                    with contextlib.suppress(ConfigurationError):
                        await redeliver_failed(
                            outbox.database, outbox.tenant_id, webhook.id, since=since, actor=ACTOR
                        )
                await outbox.make_due()
    states = dict(
        await outbox.database.fetch(
            "SELECT status, count(*) FROM embedmill.webhook_deliveries GROUP BY status"
        )
    )
    assert sum(states.values()) == 120
    assert states.get("delivered")
    deadlocks = await outbox.database.fetch_one(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert deadlocks == (0,)
