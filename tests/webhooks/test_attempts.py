"""What an answer means: delivered, tried again when, given up, and when a webhook is switched off."""

from __future__ import annotations

import asyncio
import random

import pytest

from embedmill.adapters.outbound.poster import GuardedPoster
from embedmill.webhooks.attempts import RETRY_SECONDS
from embedmill.webhooks.deliveries import get_delivery
from embedmill.webhooks.registry import get_webhook, update_webhook
from tests.adapters.outbound.server import answer, redirect
from tests.webhooks.conftest import ACTOR, Outbox, receiving


async def test_an_endpoint_that_was_down_gets_it_when_it_is_up(outbox: Outbox) -> None:
    async with receiving(answer("500 Oops", b"<b>broken</b>\n\x00 here"), answer("200 OK")) as receiver:
        delivery = await outbox.put(await outbox.webhook(receiver.url()))
        async with outbox.sending():
            await outbox.until(lambda: receiver.messages)
            await outbox.until_state(delivery, ("pending", 1))
            failed = await get_delivery(outbox.database, outbox.tenant_id, delivery)
            while failed.error is None:
                failed = await get_delivery(outbox.database, outbox.tenant_id, delivery)
            assert (failed.response_status, failed.error) == (500, "answered 500 Oops: <b>broken</b> here")
            await outbox.make_due()
            await outbox.until_state(delivery, ("delivered", 2))
    assert receiver.ids() == [str(delivery)] * 2


async def test_retries_follow_the_schedule_and_end(outbox: Outbox) -> None:
    webhook = await outbox.webhook("http://127.0.0.1:9999/")
    delivery = await outbox.put(webhook)
    async with outbox.sending(chance=random.Random(3)):
        for number, seconds in enumerate(RETRY_SECONDS, start=1):
            async with asyncio.timeout(30):
                while (await get_delivery(outbox.database, outbox.tenant_id, delivery)).error is None:
                    await asyncio.sleep(0.005)
            assert await outbox.state(delivery) == ("pending", number)
            assert 0.5 * seconds - 2 <= await outbox.wait(delivery) <= 1.5 * seconds
            await outbox.database.fetch(
                "UPDATE embedmill.webhook_deliveries SET error = NULL, next_attempt_at = now() WHERE id = %s",
                (delivery,),
            )
        await outbox.until_state(delivery, ("failed", len(RETRY_SECONDS) + 1))
    assert (await get_webhook(outbox.database, outbox.tenant_id, webhook.id)).failures == 1


@pytest.mark.parametrize(
    ("reply", "least", "most"),
    [
        (answer("429 Slow", retry_after="600"), 590, 600),
        (answer("503 Busy", retry_after="600"), 590, 600),
        (answer("503 Busy", retry_after="999999999"), 86_390, 86_400),
        (answer("500 Oops", retry_after="600"), 0, 8),
        (answer("429 Slow", retry_after="0"), 0, 8),
    ],
)
async def test_retry_after_is_honoured_by_those_who_may_ask(
    outbox: Outbox, reply: bytes, least: float, most: float
) -> None:
    async with receiving(reply) as receiver:
        delivery = await outbox.put(await outbox.webhook(receiver.url()))
        async with outbox.sending():
            await outbox.until(lambda: receiver.messages)
    assert await outbox.state(delivery) == ("pending", 1)
    assert least <= await outbox.wait(delivery) <= most


async def test_a_redirect_is_not_followed(outbox: Outbox) -> None:
    async with receiving() as target, receiving(redirect(target.url(), "308 Permanent")) as receiver:
        delivery = await outbox.put(await outbox.webhook(receiver.url()))
        async with outbox.sending():
            await outbox.until(lambda: receiver.messages)
    logged = await get_delivery(outbox.database, outbox.tenant_id, delivery)
    assert (logged.status, logged.response_status) == ("pending", 308)
    assert "not followed" in str(logged.error)
    assert target.messages == []


async def test_an_address_that_turns_private_is_not_called(outbox: Outbox) -> None:
    async with receiving() as receiver:
        delivery = await outbox.put(await outbox.webhook(receiver.url()))
        outbox.poster = GuardedPoster()
        async with outbox.sending():
            await outbox.until_state(delivery, ("pending", 1))
    assert "not public" in str((await get_delivery(outbox.database, outbox.tenant_id, delivery)).error)
    assert receiver.server.connections == 0


async def test_gone_switches_the_webhook_off_and_ends_what_waits(outbox: Outbox) -> None:
    async with receiving(answer("410 Gone")) as receiver:
        webhook = await outbox.webhook(receiver.url())
        first, second = await outbox.put(webhook), await outbox.put(webhook)
        async with outbox.sending(calls_per_webhook=1):
            await outbox.until_state(first, ("failed", 1), ("failed", 0))
            await outbox.until_state(second, ("failed", 1), ("failed", 0))
    assert len(receiver.messages) == 1
    after = await get_webhook(outbox.database, outbox.tenant_id, webhook.id)
    assert (after.is_active, after.disabled_reason) == (False, "its server answered 410 Gone")
    audit = await outbox.database.fetch(
        "SELECT actor, action, subject FROM embedmill.audit_log WHERE action = 'webhook.disable'"
    )
    assert audit == [("webhook sender", "webhook.disable", f"webhook {webhook.id}")]


async def _fail_for_good(outbox: Outbox, *deliveries: object) -> None:
    await outbox.database.fetch(
        "UPDATE embedmill.webhook_deliveries SET attempts = %s WHERE status = 'pending'",
        (len(RETRY_SECONDS),),
    )
    async with outbox.sending():
        for delivery in deliveries:
            await outbox.until_state(delivery, ("failed", 10), ("delivered", 10))  # type: ignore[arg-type]


async def test_after_five_given_up_in_a_row_the_webhook_is_switched_off(outbox: Outbox) -> None:
    async with receiving(*[answer("500 Oops")] * 4, answer("200 OK"), answer("500 Oops")) as receiver:
        webhook = await outbox.webhook(receiver.url())
        seen = []
        for _ in range(10):
            await _fail_for_good(outbox, await outbox.put(webhook))
            webhook = await get_webhook(outbox.database, outbox.tenant_id, webhook.id)
            seen.append((webhook.failures, webhook.is_active))
    assert [failures for failures, _ in seen] == [1, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    assert [is_active for _, is_active in seen] == [True] * 9 + [False]
    assert webhook.disabled_reason == "5 deliveries in a row were given up"
    on_again = await update_webhook(
        outbox.database, outbox.tenant_id, webhook.id, outbox.poster, is_active=True, actor=ACTOR
    )
    assert (on_again.failures, on_again.is_active, on_again.disabled_reason) == (0, True, None)
