"""/api/v1/webhooks: where events are sent to, and what became of them. Owns the wire's shapes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import Field

from embedmill.api.problems import Problem, describe
from embedmill.api.service import Admin, Reader, Service
from embedmill.api.wire import InvalidCursorError, Wire, decode_cursor, encode_cursor
from embedmill.service import ServiceApp
from embedmill.webhooks import registry
from embedmill.webhooks.attempts import send_test
from embedmill.webhooks.deliveries import Delivery, DeliveryCursor, get_delivery, list_deliveries, redeliver

router = APIRouter(prefix="/webhooks", tags=["webhooks"])
WebhookId = Annotated[UUID, Path(alias="webhookId")]
EventType = Literal[
    "job.completed",
    "job.failed",
    "job.cancelled",
    "batch.completed",
    "dead_letter.created",
    "budget.reached",
    "alert.raised",
    "alert.resolved",
]
Url = Annotated[str, Field(min_length=1, max_length=2000, examples=["https://example.com/hooks/embedmill"])]
Description = Annotated[str, Field(max_length=500)]


class NewWebhook(Wire):
    """Without event types it is told of all."""

    url: Url
    event_types: Annotated[list[EventType], Field(max_length=20)] = Field(default_factory=list)
    description: Description = ""


class WebhookChange(Wire):
    """What is left out stays as it is."""

    url: Url | None = None
    event_types: Annotated[list[EventType] | None, Field(max_length=20)] = None
    description: Description | None = None
    is_active: bool | None = None


class Webhook(Wire):
    """`disabledReason`: why the service switched it off; null where a person did."""

    id: UUID
    url: str
    event_types: list[str]
    description: str
    is_active: bool
    disabled_reason: str | None
    failures: Annotated[int, Field(description="Deliveries in a row that were given up.")]
    created_at: datetime

    @classmethod
    def of(cls, webhook: registry.Webhook) -> Webhook:
        fields = {name: getattr(webhook, name) for name in Webhook.model_fields}
        return cls(**{**fields, "event_types": list(webhook.event_types)})


class WebhookWithSecret(Webhook):
    """The secret is what signatures are checked with (standardwebhooks.com); it is shown here only."""

    secret: str

    @classmethod
    def made(cls, webhook: registry.Webhook, service: ServiceApp) -> WebhookWithSecret:
        secret = service.webhook_secrets.secret_for(webhook.id, webhook.secret_version)
        return cls(**Webhook.of(webhook).model_dump(), secret=secret)


class WebhookList(Wire):
    webhooks: list[Webhook]


class TestAnswer(Wire):
    """What came back of a test call; `status` is null where no answer came."""

    delivery_id: UUID
    status: int | None
    problem: str | None


class DeliveryRecord(Wire):
    """One message to one webhook; its id is the webhook-id of each attempt."""

    id: UUID
    event_type: str
    payload: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: datetime | None
    response_status: int | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryRecord:
        fields = {name: getattr(delivery, name) for name in cls.model_fields}
        return cls(**{**fields, "payload": msgspec.json.decode(delivery.payload)})


class DeliveryPage(Wire):
    deliveries: list[DeliveryRecord]
    next_cursor: str | None


@router.post("", status_code=201, responses=describe(401, 403, 422, 429))
async def create_webhook(new: NewWebhook, caller: Admin, service: Service) -> WebhookWithSecret:
    """Have events sent to a URL, signed as Standard Webhooks has it. Private addresses are refused."""
    made = await registry.create_webhook(
        caller.database,
        caller.tenant_id,
        service.poster,
        url=new.url,
        event_types=new.event_types,
        description=new.description,
        actor=caller.principal.actor,
    )
    return WebhookWithSecret.made(made, service)


@router.get("", responses=describe(401, 403, 429))
async def list_webhooks(caller: Reader) -> WebhookList:
    """All webhooks of the tenant."""
    found = await registry.list_webhooks(caller.database, caller.tenant_id)
    return WebhookList(webhooks=[Webhook.of(each) for each in found])


@router.get("/{webhookId}", responses=describe(401, 403, 404, 422, 429))
async def get_webhook(webhook_id: WebhookId, caller: Reader) -> Webhook:
    """One webhook."""
    return Webhook.of(await registry.get_webhook(caller.database, caller.tenant_id, webhook_id))


@router.patch("/{webhookId}", responses=describe(401, 403, 404, 422, 429))
async def update_webhook(
    webhook_id: WebhookId, change: WebhookChange, caller: Admin, service: Service
) -> Webhook:
    """Change it. Switched off, what waits is given up."""
    changed = await registry.update_webhook(
        caller.database,
        caller.tenant_id,
        webhook_id,
        service.poster,
        url=change.url,
        event_types=change.event_types,
        description=change.description,
        is_active=change.is_active,
        actor=caller.principal.actor,
    )
    return Webhook.of(changed)


@router.delete("/{webhookId}", status_code=204, responses=describe(401, 403, 404, 422, 429))
async def delete_webhook(webhook_id: WebhookId, caller: Admin) -> None:
    """Remove it with its deliveries."""
    await registry.delete_webhook(caller.database, caller.tenant_id, webhook_id, actor=caller.principal.actor)


@router.post("/{webhookId}/secret", responses=describe(401, 403, 404, 422, 429))
async def rotate_secret(webhook_id: WebhookId, caller: Admin, service: Service) -> WebhookWithSecret:
    """Make a new secret. Messages are signed with both, this one and the one before."""
    changed = await registry.rotate_secret(
        caller.database, caller.tenant_id, webhook_id, actor=caller.principal.actor
    )
    return WebhookWithSecret.made(changed, service)


@router.post("/{webhookId}/test", responses=describe(401, 403, 404, 422, 429))
async def test_webhook(webhook_id: WebhookId, caller: Admin, service: Service) -> TestAnswer:
    """Send a test call now and tell what came back."""
    delivery_id, answer = await send_test(
        caller.database,
        caller.tenant_id,
        webhook_id,
        service.poster,
        service.webhook_secrets,
        at=datetime.now(UTC),
    )
    return TestAnswer(delivery_id=delivery_id, status=answer.status, problem=answer.problem)


@router.get("/{webhookId}/deliveries", responses=describe(401, 403, 404, 422, 429))
async def get_deliveries(
    webhook_id: WebhookId,
    caller: Reader,
    status: Literal["pending", "delivered", "failed"] | None = None,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> DeliveryPage:
    """What was sent, newest first."""
    try:
        before = None if cursor is None else decode_cursor(cursor, DeliveryCursor)
    except InvalidCursorError as error:
        raise Problem(422, "invalid_cursor", str(error)) from error
    found = await list_deliveries(
        caller.database,
        caller.tenant_id,
        webhook_id,
        statuses=None if status is None else [status],
        limit=limit + 1,
        before=before,
    )
    shown = found[:limit]
    last = DeliveryCursor(shown[-1].created_at, shown[-1].id) if len(found) > limit else None
    return DeliveryPage(
        deliveries=[DeliveryRecord.of(each) for each in shown],
        next_cursor=None if last is None else encode_cursor(last),
    )


@router.post(
    "/{webhookId}/deliveries/{deliveryId}/redeliver",
    status_code=202,
    responses=describe(401, 403, 404, 422, 429),
)
async def redeliver_one(
    webhook_id: WebhookId, delivery_id: Annotated[UUID, Path(alias="deliveryId")], caller: Admin
) -> DeliveryRecord:
    """Send a delivery again."""
    delivery = await get_delivery(caller.database, caller.tenant_id, delivery_id)
    if delivery.webhook_id != webhook_id:
        raise Problem(404, "not_found", "this delivery is another webhook's")
    return DeliveryRecord.of(
        await redeliver(caller.database, caller.tenant_id, delivery_id, actor=caller.principal.actor)
    )
