"""The log of deliveries, and what a person does with it: look, send again. Also the clean-up of old ones. Sends nothing
itself (sender.py)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.webhooks.registry import Webhook, get_webhook, lock_webhook, record

_SQL = load_queries("embedmill.webhooks", "webhooks.sql")
_DELETED_AT_ONCE = 5000

Status = Literal["pending", "delivered", "failed"]


class Delivery(msgspec.Struct, frozen=True):
    """One message to one webhook. `id` is the webhook-id of each of its attempts; `payload` the JSON that is sent.
    `next_attempt_at` of a pending one: when it is tried next, or, during an attempt, when that counts as lost.
    `event_id` is None for a test call. `response_status` and `error` are those of the last attempt."""

    id: UUID
    webhook_id: UUID
    event_id: int | None
    event_type: str
    payload: str
    status: Status
    attempts: int
    next_attempt_at: datetime | None
    response_status: int | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None


class DeliveryCursor(msgspec.Struct, frozen=True):
    """The last delivery of a page: the next one goes on behind it."""

    created_at: datetime
    id: UUID


async def list_deliveries(
    database: Database,
    tenant_id: int,
    webhook_id: UUID,
    *,
    statuses: Iterable[Status] | None = None,
    limit: int,
    before: DeliveryCursor | None = None,
) -> list[Delivery]:
    """A page of the log of one webhook, newest first. Raises NotFoundError."""
    await get_webhook(database, tenant_id, webhook_id)
    rows = await database.fetch(
        _SQL["list_deliveries"],
        {
            "tenant_id": tenant_id,
            "webhook_id": webhook_id,
            "statuses": None if statuses is None else list(statuses),
            "limit": limit,
            "before_at": None if before is None else before.created_at,
            "before_id": None if before is None else before.id,
        },
    )
    return [Delivery(*row) for row in rows]


async def get_delivery(database: Database, tenant_id: int, delivery_id: UUID) -> Delivery:
    """Raises NotFoundError."""
    row = await database.fetch_one(_SQL["get_delivery"], {"id": delivery_id, "tenant_id": tenant_id})
    if row is None:
        raise NotFoundError(f"there is no delivery {delivery_id}: old ones are deleted")
    return Delivery(*row)


async def redeliver(database: Database, tenant_id: int, delivery_id: UUID, *, actor: str) -> Delivery:
    """Have an ended delivery sent again under its own id, as often as a new one; it is pending then. Raises
    NotFoundError, and ConfigurationError for one that waits already, a test call, or a webhook that is switched off."""
    delivery = await get_delivery(database, tenant_id, delivery_id)
    if delivery.event_type == "test":
        raise ConfigurationError("a test call is not sent again: make a new one")
    async with database.transaction() as connection:
        _check_active(await lock_webhook(connection, tenant_id, delivery.webhook_id))
        cursor = await connection.execute(_SQL["redeliver"], {"id": delivery_id, "tenant_id": tenant_id})
        if await cursor.fetchone() is None:
            raise ConfigurationError(f"the delivery {delivery_id} is still under way")
        aim = {"delivery_id": str(delivery_id)}
        await record(connection, tenant_id, actor, "webhook.redeliver", delivery.webhook_id, None, aim)
    return await get_delivery(database, tenant_id, delivery_id)


async def redeliver_failed(
    database: Database, tenant_id: int, webhook_id: UUID, *, since: datetime, actor: str
) -> int:
    """Have all that was given up since then sent again; how many. Raises as `redeliver` does."""
    async with database.transaction() as connection:
        _check_active(await lock_webhook(connection, tenant_id, webhook_id))
        given = {"webhook_id": webhook_id, "tenant_id": tenant_id, "since": since}
        count = len(await (await connection.execute(_SQL["redeliver_failed"], given)).fetchall())
        aim: dict[str, Any] = {"since": since.isoformat(), "deliveries": count}
        await record(connection, tenant_id, actor, "webhook.redeliver", webhook_id, None, aim)
    return count


async def delete_old_deliveries(database: Database, *, days: int) -> int:
    """Delete the deliveries of all tenants that ended and were written more than `days` days ago; how many."""
    deleted = 0
    while True:
        rows = await database.fetch(_SQL["delete_old"], {"days": days, "limit": _DELETED_AT_ONCE})
        deleted += len(rows)
        if len(rows) < _DELETED_AT_ONCE:
            return deleted


def _check_active(webhook: Webhook) -> None:
    if not webhook.is_active:
        raise ConfigurationError(f"the webhook {webhook.id} is switched off: switch it on first")
