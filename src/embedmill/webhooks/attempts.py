"""One attempt to deliver: the call, what its answer means, and what is written of it. Owns the schedule of retries and
the rules by which a webhook is switched off; which attempt is due is decided in sender.py.

No transaction is open during the call. An attempt is fenced by its number: what comes back from one that was given up
for lost changes nothing, except that a delivered message is delivered.
"""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError
from embedmill.ports import PostAnswer, WebhookPoster
from embedmill.webhooks.registry import SWITCHED_OFF, record
from embedmill.webhooks.signing import WebhookSecrets

_SQL = load_queries("embedmill.webhooks", "webhooks.sql")

RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""About so long after the first, second, ... attempt the next one follows (Standard Webhooks); 75 hours in all."""
LONGEST_WAIT_SECONDS = 86_400.0
FAILURES_ALLOWED = 4
"""Deliveries in a row that may be given up; with the next one the webhook is switched off."""
LEASE_SECONDS = 60.0
"""How long an attempt may take before it counts as lost: far more than a poster's own limit."""
ACTOR = "webhook sender"
_GONE = "its server answered 410 Gone"


class ClaimedDelivery(msgspec.Struct, frozen=True):
    """A delivery whose attempt number `attempt` is ours. `payload` is the JSON to send, letter by letter."""

    id: UUID
    tenant_id: int
    webhook_id: UUID
    event_type: str
    payload: str
    attempt: int
    url: str
    secret_version: int


class Verdict(msgspec.Struct, frozen=True):
    """What an answer means. `disable_reason`: the webhook is to be switched off at once."""

    status: Literal["delivered", "waiting", "failed"]
    delay_seconds: float = 0.0
    disable_reason: str | None = None


def verdict(answer: PostAnswer, claimed: ClaimedDelivery, chance: random.Random) -> Verdict:
    """2xx is delivered; 410 ends the webhook; everything else is tried again until the schedule ends. 429 and 503 may
    ask for more patience, at most a day. A test call is tried once."""
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict("delivered")
    if claimed.event_type == "test":
        return Verdict("failed")
    if answer.status == 410:
        return Verdict("failed", disable_reason=_GONE)
    if claimed.attempt > len(RETRY_SECONDS):
        return Verdict("failed")
    # Spread by half to either side: "about" stays true, and what failed together does not come back together.
    delay = RETRY_SECONDS[claimed.attempt - 1] * chance.uniform(0.5, 1.5)
    if answer.status in (429, 503) and answer.retry_after_seconds is not None:
        delay = max(delay, min(answer.retry_after_seconds, LONGEST_WAIT_SECONDS))
    return Verdict("waiting", delay)


async def call(
    poster: WebhookPoster, secrets: WebhookSecrets, claimed: ClaimedDelivery, *, at: datetime
) -> PostAnswer:
    """Sign and send. Raises nothing but the cancellation of its task."""
    signature = secrets.headers_for(
        claimed.webhook_id, claimed.secret_version, message_id=claimed.id, at=at, body=claimed.payload
    )
    headers = {"Content-Type": "application/json", **signature}
    return await poster.post(claimed.url, headers=headers, body=claimed.payload.encode())


async def write(database: Database, claimed: ClaimedDelivery, answer: PostAnswer, means: Verdict) -> None:
    """Write what came of an attempt, in one transaction; harmless to repeat. Returns without a trace where the
    webhook is gone."""
    given = {
        "id": claimed.id,
        "tenant_id": claimed.tenant_id,
        "webhook_id": claimed.webhook_id,
        "attempt": claimed.attempt,
        "response_status": answer.status,
        "error": answer.problem,
        "delay_seconds": means.delay_seconds,
    }
    async with database.transaction() as connection:
        if means.status == "delivered":
            if claimed.event_type != "test":
                await connection.execute(_SQL["clear_failures"], given)
            await connection.execute(_SQL["mark_delivered"], given)
            return
        locked = await (await connection.execute(_SQL["lock"], given)).fetchone()
        if locked is None:
            return
        is_active = locked[4]
        if means.status == "waiting" and is_active:
            await connection.execute(_SQL["mark_waiting"], given)
        else:
            await _give_up(connection, claimed, given, means.disable_reason)


async def send_test(
    database: Database,
    tenant_id: int,
    webhook_id: UUID,
    poster: WebhookPoster,
    secrets: WebhookSecrets,
    *,
    at: datetime,
) -> tuple[UUID, PostAnswer]:
    """Send a test call now, also where the webhook is switched off; its id in the log, and what came back. It is
    tried once and counts for nothing. Raises NotFoundError."""
    row = await database.fetch_one(
        _SQL["claim_test"], {"tenant_id": tenant_id, "webhook_id": webhook_id, "lease_seconds": LEASE_SECONDS}
    )
    if row is None:
        raise NotFoundError(f"there is no webhook {webhook_id}")
    claimed = ClaimedDelivery(*row)
    answer = await call(poster, secrets, claimed, at=at)
    await write(database, claimed, answer, verdict(answer, claimed, random.Random()))  # noqa: S311
    return claimed.id, answer


async def _give_up(
    connection: Connection, claimed: ClaimedDelivery, given: dict[str, Any], disable_reason: str | None
) -> None:
    ended = await (await connection.execute(_SQL["mark_failed"], given)).fetchone()
    if claimed.event_type == "test" or (ended is None and disable_reason is None):
        return
    row = await (await connection.execute(_SQL["count_failure"], given)).fetchone()
    if disable_reason is None and row is not None and row[0] > FAILURES_ALLOWED:
        disable_reason = f"{row[0]} deliveries in a row were given up"
    if disable_reason is not None:
        await _disable(connection, claimed, disable_reason)


async def _disable(connection: Connection, claimed: ClaimedDelivery, reason: str) -> None:
    given = {"webhook_id": claimed.webhook_id, "reason": reason, "error": SWITCHED_OFF}
    if await (await connection.execute(_SQL["disable"], given)).fetchone() is None:
        return
    await connection.execute(_SQL["end_waiting"], given)
    await record(
        connection, claimed.tenant_id, ACTOR, "webhook.disable", claimed.webhook_id, None, {"reason": reason}
    )
