"""Webhooks, keys, and how the service is, for both clients. Each method is one definition."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from embedmill.client import endpoints as at
from embedmill.client.asking import Asking
from embedmill.client.operations import Listing, Operation
from embedmill.client.records.access import ApiKey, CreatedKey, Health, Readiness, Role, Whoami
from embedmill.client.records.alerts import Alert, AlertState
from embedmill.client.records.audits import Audit
from embedmill.client.records.webhooks import (
    Delivery,
    DeliveryStatus,
    Webhook,
    WebhookTest,
    WebhookWithSecret,
)


class AdministrationCalls:
    """Who is told, who may call."""

    _asking: Asking

    @Operation
    async def webhooks(self) -> tuple[Webhook, ...]:
        """All webhooks of the tenant."""
        return (await self._asking.ask(at.LIST_WEBHOOKS.call())).webhooks

    @Operation
    async def webhook(self, webhook_id: at.Id) -> Webhook:
        """One webhook."""
        return await self._asking.ask(at.GET_WEBHOOK.call(_path(webhook_id)))

    @Operation
    async def create_webhook(
        self, url: str, *, event_types: Sequence[str] = (), description: str = ""
    ) -> WebhookWithSecret:
        """Have events sent to a URL; of all types where none is named. Keep the secret: it is shown here only."""
        body = {"url": url, "eventTypes": list(event_types), "description": description}
        return await self._asking.ask(at.CREATE_WEBHOOK.call(body=body))

    @Operation
    async def change_webhook(
        self,
        webhook_id: at.Id,
        *,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
        description: str | None = None,
        is_active: bool | None = None,
    ) -> Webhook:
        """What is left out stays as it is. Switched off, what waits is given up."""
        wanted: dict[str, Any] = {
            "url": url,
            "eventTypes": None if event_types is None else list(event_types),
            "description": description,
            "isActive": is_active,
        }
        body = {name: value for name, value in wanted.items() if value is not None}
        return await self._asking.ask(at.CHANGE_WEBHOOK.call(_path(webhook_id), body=body))

    @Operation
    async def delete_webhook(self, webhook_id: at.Id) -> None:
        """Remove it with its deliveries."""
        await self._asking.ask(at.DELETE_WEBHOOK.call(_path(webhook_id)))

    @Operation
    async def rotate_webhook_secret(self, webhook_id: at.Id) -> WebhookWithSecret:
        """Make a new secret. Messages are signed with both, this one and the one before."""
        return await self._asking.ask(at.ROTATE_SECRET.call(_path(webhook_id)))

    @Operation
    async def test_webhook(self, webhook_id: at.Id) -> WebhookTest:
        """Have a test call sent now; what came back."""
        return await self._asking.ask(at.TEST_WEBHOOK.call(_path(webhook_id)))

    @Listing
    async def deliveries(
        self, webhook_id: at.Id, *, status: DeliveryStatus | None = None, page_size: int = 100
    ) -> AsyncGenerator[Delivery, None]:
        """What was sent to a webhook, newest first; pages are asked for as they are wanted."""
        cursor: str | None = None
        while True:
            query: dict[str, at.Value] = {"status": status, "cursor": cursor, "limit": page_size}
            page = await self._asking.ask(at.LIST_DELIVERIES.call(_path(webhook_id), query=query))
            for delivery in page.deliveries:
                yield delivery
            cursor = page.next_cursor
            if cursor is None:
                return

    @Operation
    async def redeliver(self, webhook_id: at.Id, delivery_id: at.Id) -> Delivery:
        """Send a delivery again."""
        path = {**_path(webhook_id), "deliveryId": at.id_of(delivery_id)}
        return await self._asking.ask(at.REDELIVER.call(path))

    @Listing
    async def alerts(
        self, *, state: AlertState = "open", page_size: int = 100
    ) -> AsyncGenerator[Alert, None]:
        """What needs attention: open ones first, then those that were resolved, each newest first."""
        cursor: str | None = None
        while True:
            query: dict[str, at.Value] = {"state": state, "cursor": cursor, "limit": page_size}
            page = await self._asking.ask(at.LIST_ALERTS.call(query=query))
            for alert in page.alerts:
                yield alert
            cursor = page.next_cursor
            if cursor is None:
                return

    @Operation
    async def acknowledge_alert(self, alert_id: int, *, seconds: float | None = None) -> Alert:
        """Say that somebody has seen it: nothing more is told of it for so long; None: until it is resolved."""
        body = {"seconds": seconds}
        return await self._asking.ask(at.ACKNOWLEDGE_ALERT.call({"alertId": alert_id}, body=body))

    @Operation
    async def audits(self, *, limit: int = 10) -> tuple[Audit, ...]:
        """The newest audits, with what they found."""
        return (await self._asking.ask(at.LIST_AUDITS.call(query={"limit": limit}))).audits

    @Operation
    async def order_audit(
        self, *, source: str | None = None, pipeline: str | None = None, repair: bool = False
    ) -> Audit:
        """Have a worker look through everything, one pipeline or one source; `audits` tells what it found. A repair may
        pay for vectors and delete some."""
        body: dict[str, Any] = {"repair": repair}
        if source is not None:
            body["source"] = source
        if pipeline is not None:
            body["pipeline"] = pipeline
        return await self._asking.ask(at.ORDER_AUDIT.call(body=body))

    @Operation
    async def whoami(self) -> Whoami:
        """Whose key this is, and what it may do."""
        return await self._asking.ask(at.WHOAMI.call())

    @Operation
    async def keys(self) -> tuple[ApiKey, ...]:
        """Every key of the tenant that there was."""
        return (await self._asking.ask(at.LIST_KEYS.call())).keys

    @Operation
    async def create_key(self, name: str, role: Role, *, expires_in_days: float | None = None) -> CreatedKey:
        """Make a key for this tenant. Its secret is shown here and never again."""
        body: dict[str, Any] = {"name": name, "role": role}
        if expires_in_days is not None:
            body["expiresInDays"] = expires_in_days
        return await self._asking.ask(at.CREATE_KEY.call(body=body))

    @Operation
    async def revoke_key(self, key_id: at.Id) -> ApiKey:
        """Let nobody in with this key any more."""
        return await self._asking.ask(at.REVOKE_KEY.call({"keyId": at.id_of(key_id)}))

    @Operation
    async def health(self) -> Health:
        """The process answers."""
        return await self._asking.ask(at.HEALTH.call())

    @Operation
    async def ready(self) -> Readiness:
        """Whether it can take work in (`is_ready`), and what is away if not."""
        return await self._asking.ask(at.READINESS.call())


def _path(webhook_id: at.Id) -> dict[str, Any]:
    return {"webhookId": at.id_of(webhook_id)}
