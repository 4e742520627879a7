"""Webhooks and what was sent to them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias
from uuid import UUID

from embedmill.client.records.base import Moment, Record

DeliveryStatus: TypeAlias = Literal["pending", "delivered", "failed"]


class Webhook(Record, frozen=True):
    """`disabled_reason`: why the service switched it off; None where a person did. `failures`: deliveries in a row
    that were given up."""

    id: UUID
    url: str
    event_types: tuple[str, ...]
    description: str
    is_active: bool
    disabled_reason: str | None
    failures: int
    created_at: Moment


class WebhookWithSecret(Webhook, frozen=True):
    """The secret is what signatures are checked with (`verify_webhook`); it is shown here only."""

    secret: str

    def __repr__(self) -> str:
        return f"WebhookWithSecret(id={self.id!r}, url={self.url!r}, secret=<hidden>)"


class WebhookList(Record, frozen=True):
    webhooks: tuple[Webhook, ...]


class WebhookTest(Record, frozen=True):
    """What came back of a test call; `status` is None where no answer came."""

    delivery_id: UUID
    status: int | None
    problem: str | None


class Delivery(Record, frozen=True):
    """One message to one webhook; its id is the webhook-id of each attempt."""

    id: UUID
    event_type: str
    payload: dict[str, Any]
    status: str
    attempts: int
    next_attempt_at: Moment | None
    response_status: int | None
    error: str | None
    created_at: Moment
    ended_at: Moment | None


class DeliveryPage(Record, frozen=True):
    deliveries: tuple[Delivery, ...]
    next_cursor: str | None
