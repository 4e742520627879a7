"""Alerts: what needs a person, what did, and saying that somebody has seen it. Owns the page; they are raised and
resolved by the leader's sweep (functions/59_alerts.sql)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from embedmill.api.wire import decode_cursor, encode_cursor
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.visitors import Reader, Visitor, Writer
from embedmill.database.pool import Database
from embedmill.errors import ConflictError
from embedmill.queue.alerts import Alert, AlertCursor, acknowledge, list_alerts, open_alerts

router = APIRouter(prefix="/alerts")
_PAGE = 50
_SILENCES = {"until it is resolved": None, "1 hour": 3600.0, "4 hours": 4 * 3600.0, "1 day": 86_400.0}


@router.get("")
async def alerts_page(
    request: Request, visitor: Reader, after: Annotated[str | None, Query(max_length=200)] = None
) -> Response:
    return await show(request, visitor, "alerts.html", lambda: load_alerts(visitor, after))


@router.post("/{alert_id}/acknowledge")
async def acknowledge_alert(
    visitor: Writer, alert_id: int, silence: Annotated[str, Form(max_length=50)] = ""
) -> Response:
    """Say that somebody has seen it: it is told no more for that long."""
    try:
        await acknowledge(
            database_of(visitor),
            visitor.tenant_id,
            alert_id,
            with_installation=visitor.is_operator,
            seconds=_SILENCES.get(silence),
            actor=visitor.actor,
        )
    except ConflictError as error:
        return redirect("/alerts", str(error), is_error=True)
    return redirect("/alerts", "Noted: it is silent now, and goes by itself when it is resolved.")


async def load_alerts(visitor: Visitor, after: str | None) -> Mapping[str, Any]:
    database, tenant_id, is_operator = database_of(visitor), visitor.tenant_id, visitor.is_operator
    found = await list_alerts(
        database,
        tenant_id,
        with_installation=is_operator,
        state="resolved",
        after=None if after is None else decode_cursor(after, AlertCursor),
        limit=_PAGE + 1,
    )
    resolved = found[:_PAGE]
    last = resolved[-1] if len(found) > _PAGE else None
    return {
        "open": await open_alerts(database, tenant_id, with_installation=is_operator),
        "resolved": resolved,
        "after": after,
        "next": None if last is None else encode_cursor(AlertCursor(not last.is_open, last.id)),
        "silences": list(_SILENCES),
    }


async def attention(visitor: Visitor) -> list[Alert]:
    """The open alerts that nobody has acknowledged, for the first page."""
    found = await open_alerts(database_of(visitor), visitor.tenant_id, with_installation=visitor.is_operator)
    return [alert for alert in found if alert.needs_attention]


def database_of(visitor: Visitor) -> Database:
    """What is the installation's is no tenant's: only an operator sees it, and not through a tenant's eyes."""
    return visitor.service.operator if visitor.is_operator else visitor.database
