"""Webhooks of a tenant and what became of their messages. Owns the forms; rules and secrets are webhooks/'s."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from embedmill.api.wire import decode_cursor, encode_cursor
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.visitors import Admin, Reader, Visitor
from embedmill.errors import EmbedmillError, NotFoundError
from embedmill.webhooks import registry
from embedmill.webhooks.attempts import send_test
from embedmill.webhooks.deliveries import (
    DeliveryCursor,
    get_delivery,
    list_deliveries,
    redeliver,
    redeliver_failed,
)

router = APIRouter(prefix="/settings/webhooks")
_PAGE = 50
_REDELIVERED_DAYS = 7
DeliveryStatus = Literal["pending", "delivered", "failed"]
Types = Annotated[list[str], Form()]


@router.get("")
async def webhooks_page(request: Request, visitor: Reader) -> Response:
    return await show(request, visitor, "webhooks.html", lambda: load_webhooks(visitor))


@router.post("")
async def add_webhook(
    request: Request,
    visitor: Admin,
    url: Annotated[str, Form(max_length=4000)] = "",
    description: Annotated[str, Form(max_length=2000)] = "",
    event_types: Types = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Have events sent to a URL; its secret is shown this once."""
    typed = {"url": url, "description": description, "event_types": event_types}
    try:
        made = await registry.create_webhook(
            visitor.database,
            visitor.tenant_id,
            visitor.service.poster,
            url=url.strip(),
            event_types=event_types,
            description=description.strip(),
            actor=visitor.actor,
        )
    except EmbedmillError as error:
        trouble = str(error)
        return await show(
            request,
            visitor,
            "webhooks.html",
            lambda: load_webhooks(visitor, typed=typed, trouble=trouble),
            status=422,
        )
    return await _show_secret(request, visitor, made, status=201)


@router.get("/{webhook_id}")
async def webhook_page(
    request: Request,
    visitor: Reader,
    webhook_id: UUID,
    status: DeliveryStatus | None = None,
    after: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """One webhook and its deliveries, newest first."""
    return await show(
        request,
        visitor,
        "webhook.html",
        lambda: load_webhook(visitor, webhook_id, status=status, after=after),
    )


@router.post("/{webhook_id}/change")
async def change_webhook(
    request: Request,
    visitor: Admin,
    webhook_id: UUID,
    url: Annotated[str, Form(max_length=4000)],
    description: Annotated[str, Form(max_length=2000)] = "",
    event_types: Types = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    standing = await registry.get_webhook(visitor.database, visitor.tenant_id, webhook_id)
    try:
        await registry.update_webhook(
            visitor.database,
            visitor.tenant_id,
            webhook_id,
            visitor.service.poster,
            # An address that stays is not looked up again: its host may be away just now.
            url=None if url.strip() == standing.url else url.strip(),
            event_types=event_types,
            description=description.strip(),
            actor=visitor.actor,
        )
    except NotFoundError:
        raise
    except EmbedmillError as error:
        typed = {"url": url, "description": description, "event_types": event_types}
        trouble = str(error)
        return await show(
            request,
            visitor,
            "webhook.html",
            lambda: load_webhook(visitor, webhook_id, typed=typed, trouble=trouble),
            status=422,
            here=_address(webhook_id),
        )
    return redirect(_address(webhook_id), "It is changed.")


@router.post("/{webhook_id}/switch")
async def switch_webhook(visitor: Admin, webhook_id: UUID, on: Annotated[bool, Form()]) -> Response:
    """On or off; switched off, what waits is given up."""
    await registry.update_webhook(
        visitor.database,
        visitor.tenant_id,
        webhook_id,
        visitor.service.poster,
        is_active=on,
        actor=visitor.actor,
    )
    return redirect(_address(webhook_id), "It is on again." if on else "It is off: nothing is sent to it.")


@router.post("/{webhook_id}/secret")
async def rotate_secret(request: Request, visitor: Admin, webhook_id: UUID) -> Response:
    """The next secret, shown this once; messages are signed with the one before too."""
    changed = await registry.rotate_secret(
        visitor.database, visitor.tenant_id, webhook_id, actor=visitor.actor
    )
    return await _show_secret(request, visitor, changed, status=200)


@router.post("/{webhook_id}/delete")
async def delete_webhook(visitor: Admin, webhook_id: UUID) -> Response:
    await registry.delete_webhook(visitor.database, visitor.tenant_id, webhook_id, actor=visitor.actor)
    return redirect("/settings/webhooks", "The webhook and its deliveries are deleted.")


@router.post("/{webhook_id}/test")
async def test_webhook(visitor: Admin, webhook_id: UUID) -> Response:
    """Send a test call now, and say what came back."""
    service = visitor.service
    _, answer = await send_test(
        visitor.database,
        visitor.tenant_id,
        webhook_id,
        service.poster,
        service.webhook_secrets,
        at=datetime.now(UTC),
    )
    if answer.problem is None:
        return redirect(_address(webhook_id), f"The test call was answered with {answer.status}.")
    return redirect(_address(webhook_id), f"The test call failed: {answer.problem}", is_error=True)


@router.post("/{webhook_id}/redeliver")
async def redeliver_all(visitor: Admin, webhook_id: UUID) -> Response:
    """Send again what was given up within the last week."""
    since = datetime.now(UTC) - timedelta(days=_REDELIVERED_DAYS)
    try:
        number = await redeliver_failed(
            visitor.database, visitor.tenant_id, webhook_id, since=since, actor=visitor.actor
        )
    except NotFoundError:
        raise
    except EmbedmillError as error:
        return redirect(_address(webhook_id), str(error), is_error=True)
    return redirect(_address(webhook_id), f"{number:,} messages of the last week are sent again.")


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver")
async def redeliver_one(visitor: Admin, webhook_id: UUID, delivery_id: UUID) -> Response:
    delivery = await get_delivery(visitor.database, visitor.tenant_id, delivery_id)
    if delivery.webhook_id != webhook_id:
        raise NotFoundError("this delivery is another webhook's")
    try:
        await redeliver(visitor.database, visitor.tenant_id, delivery_id, actor=visitor.actor)
    except NotFoundError:
        raise
    except EmbedmillError as error:
        return redirect(_address(webhook_id), str(error), is_error=True)
    return redirect(_address(webhook_id), "It is sent again.")


async def load_webhooks(
    visitor: Visitor, *, typed: Mapping[str, Any] | None = None, trouble: str | None = None
) -> Mapping[str, Any]:
    return {
        "webhooks": await registry.list_webhooks(visitor.database, visitor.tenant_id),
        "event_types": registry.EVENT_TYPES,
        "typed": typed or {"url": "", "description": "", "event_types": []},
        "trouble": trouble,
    }


async def load_webhook(
    visitor: Visitor,
    webhook_id: UUID,
    *,
    status: DeliveryStatus | None = None,
    after: str | None = None,
    typed: Mapping[str, Any] | None = None,
    trouble: str | None = None,
    secret: str | None = None,
) -> Mapping[str, Any]:
    """Raises NotFoundError, and Problem for an `after` that is none of ours."""
    webhook = await registry.get_webhook(visitor.database, visitor.tenant_id, webhook_id)
    found = await list_deliveries(
        visitor.database,
        visitor.tenant_id,
        webhook_id,
        statuses=None if status is None else [status],
        limit=_PAGE + 1,
        before=None if after is None else decode_cursor(after, DeliveryCursor),
    )
    shown = found[:_PAGE]
    has_more = len(found) > _PAGE
    return {
        "webhook": webhook,
        "deliveries": shown,
        "payloads": {each.id: msgspec.json.decode(each.payload) for each in shown},
        "next": encode_cursor(DeliveryCursor(shown[-1].created_at, shown[-1].id)) if has_more else None,
        "after": after,
        "status_filter": status,
        "event_types": registry.EVENT_TYPES,
        "typed": typed
        or {"url": webhook.url, "description": webhook.description, "event_types": webhook.event_types},
        "trouble": trouble,
        "secret_value": secret,
    }


async def _show_secret(
    request: Request, visitor: Visitor, webhook: registry.Webhook, *, status: int
) -> Response:
    secret = visitor.service.webhook_secrets.secret_for(webhook.id, webhook.secret_version)
    return await show(
        request,
        visitor,
        "webhook.html",
        lambda: load_webhook(visitor, webhook.id, secret=secret),
        status=status,
        here=_address(webhook.id),
    )


def _address(webhook_id: UUID) -> str:
    return f"/settings/webhooks/{webhook_id}"
