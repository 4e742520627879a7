"""The webhooks of a tenant: where which events are sent to. Owns creating, changing and deleting them, each written to
the audit log; sends nothing (sender.py) and holds no secret (signing.py)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.ports import WebhookPoster

_SQL = load_queries("embedmill.webhooks", "webhooks.sql")

EVENT_TYPES = {
    "job.completed": "an ingestion job is done: every embeddable chunk has its vector",
    "job.failed": "an ingestion job ended with an error",
    "job.cancelled": "an ingestion job was cancelled",
    "batch.completed": "the last job of a batch ended",
    "dead_letter.created": "something failed for good and waits for a person",
    "budget.reached": "a budget stopped the work of a tenant or a job",
    "alert.raised": "something needs attention",
    "alert.resolved": "it does no longer",
    "test": "a test call, sent on demand",
}
MAX_WEBHOOKS = 50
MAX_URL_BYTES = 2000
MAX_DESCRIPTION_LETTERS = 500
SWITCHED_OFF = "the webhook is switched off: switch it on and redeliver"


class Webhook(msgspec.Struct, frozen=True):
    """`event_types`: none means all. `disabled_reason`: why the service switched it off; None where a person did.
    `failures`: deliveries in a row that were given up. Its secret: WebhookSecrets.secret_for(id, secret_version)."""

    id: UUID
    url: str
    event_types: tuple[str, ...]
    description: str
    is_active: bool
    disabled_reason: str | None
    failures: int
    secret_version: int
    created_at: datetime


async def create_webhook(
    database: Database,
    tenant_id: int,
    poster: WebhookPoster,
    *,
    url: str,
    event_types: Iterable[str] = (),
    description: str = "",
    actor: str,
) -> Webhook:
    """Raises AddressRefusedError for a URL that is not sent to, ConfigurationError for what is wrong besides."""
    given = {"event_types": checked_types(event_types), "description": _checked_description(description)}
    await _check_url(poster, url)
    async with database.transaction() as connection:
        row = await _one(
            connection, "create", {"tenant_id": tenant_id, "url": url, "max_webhooks": MAX_WEBHOOKS, **given}
        )
        if row is None:
            raise ConfigurationError(
                f"there are {MAX_WEBHOOKS} webhooks already: delete one that is not needed"
            )
        webhook = _webhook(row)
        await record(connection, tenant_id, actor, "webhook.create", webhook.id, None, _shown(webhook))
    return webhook


async def list_webhooks(database: Database, tenant_id: int) -> list[Webhook]:
    """All of a tenant (at most MAX_WEBHOOKS), oldest first."""
    return [_webhook(row) for row in await database.fetch(_SQL["list"], {"tenant_id": tenant_id})]


async def get_webhook(database: Database, tenant_id: int, webhook_id: UUID) -> Webhook:
    """Raises NotFoundError."""
    return _found(await database.fetch_one(_SQL["get"], _named(tenant_id, webhook_id)), webhook_id)


async def update_webhook(
    database: Database,
    tenant_id: int,
    webhook_id: UUID,
    poster: WebhookPoster,
    *,
    url: str | None = None,
    event_types: Iterable[str] | None = None,
    description: str | None = None,
    is_active: bool | None = None,
    actor: str,
) -> Webhook:
    """Change what is not None. Switched off, what waits ends as failed; switched on, its failures are forgotten.
    Raises NotFoundError, AddressRefusedError, ConfigurationError."""
    types = None if event_types is None else checked_types(event_types)
    text = None if description is None else _checked_description(description)
    if url is not None:
        await _check_url(poster, url)
    async with database.transaction() as connection:
        before = await lock_webhook(connection, tenant_id, webhook_id)
        changed = {
            "url": before.url if url is None else url,
            "event_types": list(before.event_types) if types is None else types,
            "description": before.description if text is None else text,
            "is_active": before.is_active if is_active is None else is_active,
        }
        after = _found(
            await _one(connection, "update", {**_named(tenant_id, webhook_id), **changed}), webhook_id
        )
        if before.is_active and not after.is_active:
            await connection.execute(_SQL["end_waiting"], {"webhook_id": webhook_id, "error": SWITCHED_OFF})
        await record(
            connection, tenant_id, actor, "webhook.update", webhook_id, _shown(before), _shown(after)
        )
    return after


async def rotate_secret(database: Database, tenant_id: int, webhook_id: UUID, *, actor: str) -> Webhook:
    """The next secret; until the one after it, calls are signed with the old one too. Raises NotFoundError."""
    async with database.transaction() as connection:
        webhook = _found(await _one(connection, "rotate", _named(tenant_id, webhook_id)), webhook_id)
        version = {"secret_version": webhook.secret_version}
        await record(connection, tenant_id, actor, "webhook.rotate_secret", webhook_id, None, version)
    return webhook


async def delete_webhook(database: Database, tenant_id: int, webhook_id: UUID, *, actor: str) -> None:
    """With its log; what waits is not sent. Raises NotFoundError."""
    async with database.transaction() as connection:
        row = await _one(connection, "delete", _named(tenant_id, webhook_id))
        if row is None:
            raise _missing(webhook_id)
        await record(
            connection, tenant_id, actor, "webhook.delete", webhook_id, {"host": _host(row[0])}, None
        )


async def lock_webhook(connection: Connection, tenant_id: int, webhook_id: UUID) -> Webhook:
    """To the end of the transaction; whoever changes several of its deliveries does this first. Raises
    NotFoundError."""
    return _found(await _one(connection, "lock", _named(tenant_id, webhook_id)), webhook_id)


async def record(
    connection: Connection,
    tenant_id: int,
    actor: str,
    action: str,
    webhook_id: UUID,
    old_value: dict[str, Any] | None,
    new_value: dict[str, Any] | None,
) -> None:
    """One row of the audit log, in the caller's transaction."""
    old, new = (
        None if value is None else msgspec.json.encode(value).decode() for value in (old_value, new_value)
    )
    await connection.execute(_SQL["act_as"], {"actor": actor})
    await connection.execute(
        _SQL["record_action"],
        {
            "tenant_id": tenant_id,
            "action": action,
            "subject": f"webhook {webhook_id}",
            "old_value": old,
            "new_value": new,
        },
    )


def checked_types(event_types: Iterable[str]) -> list[str]:
    """Sorted, each once. Raises ConfigurationError naming those that do not exist."""
    given = sorted(set(event_types))
    unknown = [name for name in given if name not in EVENT_TYPES]
    if unknown:
        raise ConfigurationError(
            f"there is no event type {', '.join(repr(name) for name in unknown)}: choose from {', '.join(EVENT_TYPES)}"
        )
    return given


def _checked_description(text: str) -> str:
    if len(text) > MAX_DESCRIPTION_LETTERS or "\0" in text:
        raise ConfigurationError(
            f"the description is longer than {MAX_DESCRIPTION_LETTERS} letters, or holds a NUL"
        )
    return text


async def _check_url(poster: WebhookPoster, url: str) -> None:
    if len(url.encode("utf-8", "replace")) > MAX_URL_BYTES:
        raise ConfigurationError(f"the URL is longer than {MAX_URL_BYTES} bytes")
    await poster.check(url)


async def _one(connection: Connection, name: str, given: dict[str, Any]) -> tuple[Any, ...] | None:
    return await (await connection.execute(_SQL[name], given)).fetchone()


def _named(tenant_id: int, webhook_id: UUID) -> dict[str, Any]:
    return {"tenant_id": tenant_id, "webhook_id": webhook_id}


def _webhook(row: tuple[Any, ...]) -> Webhook:
    return Webhook(row[0], row[1], tuple(row[2]), *row[3:])


def _found(row: tuple[Any, ...] | None, webhook_id: UUID) -> Webhook:
    if row is None:
        raise _missing(webhook_id)
    return _webhook(row)


def _missing(webhook_id: UUID) -> NotFoundError:
    return NotFoundError(f"there is no webhook {webhook_id}")


def _shown(webhook: Webhook) -> dict[str, Any]:
    """As the audit log has it: of the URL the host alone, since what follows is often a secret."""
    return {
        "host": _host(webhook.url),
        "event_types": list(webhook.event_types),
        "is_active": webhook.is_active,
    }


def _host(url: str) -> str:
    return urlsplit(url).netloc
