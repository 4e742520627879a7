"""The configuration of the queue as operators see and change it, and who changed what. Owns the form; bounds and checks
are the database's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.visitors import Operator, Reader, Visitor
from embedmill.errors import ConfigurationError
from embedmill.queue.administration import read_audit_log
from embedmill.queue.config import Setting, list_settings, set_value

router = APIRouter(prefix="/settings")
_MOST_RECORDS = 100
# What belongs together, by how the names begin or what they hold; what fits nowhere stands at the end.
_GROUPS: Sequence[tuple[str, tuple[str, ...]]] = (
    (
        "Queue",
        (
            "queue_enabled",
            "batch_size",
            "lease_",
            "max_retries",
            "outage_",
            "rate_limit",
            "cancellation_",
            "priority_",
        ),
    ),
    ("Workers", ("max_concurrent", "min_concurrent", "scale_", "worker_")),
    ("Quotas", ("api_quota", "token_quota")),
    ("Alerts", ("alert",)),
    (
        "Audit and retention",
        ("audit_", "queue_cleanup", "history_", "usage_", "originals_", "events_", "webhook_"),
    ),
)
_OTHERS = "More"


class Refused(msgspec.Struct, frozen=True):
    """A value that was not taken, as it was typed, and why."""

    key: str
    value: str
    reason: str


@router.get("")
async def settings_page(request: Request, visitor: Reader) -> Response:
    return await show(request, visitor, "settings.html", lambda: load_settings(visitor))


@router.post("")
async def change_setting(
    request: Request,
    visitor: Operator,
    key: Annotated[str, Form(max_length=100)],
    value: Annotated[str, Form(max_length=2000)] = "",
    reset: Annotated[str, Form(max_length=10)] = "",
) -> Response:
    """Set one value, or put it back to its default."""
    wanted = None if reset else value.strip()
    try:
        await set_value(visitor.service.operator, key, wanted, actor=visitor.actor)
    except ConfigurationError as error:
        refused = Refused(key, value, str(error))
        return await show(
            request, visitor, "settings.html", lambda: load_settings(visitor, refused), status=422
        )
    said = "is back at its default" if wanted is None else f"is {wanted} now"
    return redirect(f"/settings#{key}", f"{key} {said}; workers see it within two seconds.")


@router.get("/audit-log")
async def audit_log(
    request: Request, visitor: Reader, limit: Annotated[int, Query(ge=1, le=1000)] = _MOST_RECORDS
) -> Response:
    """Who changed what, newest first."""

    async def load() -> Mapping[str, Any]:
        # What is the whole fleet's belongs to no tenant: only an operator is shown it.
        database = visitor.service.operator if visitor.is_operator else visitor.database
        records = await read_audit_log(database, visitor.tenant_id, limit=limit + 1)
        return {"records": records[:limit], "limit": limit, "has_more": len(records) > limit}

    return await show(request, visitor, "audit_log.html", load)


async def load_settings(visitor: Visitor, refused: Refused | None = None) -> Mapping[str, Any]:
    found = await list_settings(visitor.service.operator)
    return {"groups": grouped(found), "refused": refused, "shown": shown_value}


def grouped(settings: Sequence[Setting]) -> list[tuple[str, list[Setting]]]:
    """By what they are about, each in the order of their names; groups without any are left out."""
    groups: dict[str, list[Setting]] = {name: [] for name in (*(name for name, _ in _GROUPS), _OTHERS)}
    for setting in settings:
        name = next((name for name, begins in _GROUPS if setting.key.startswith(begins)), _OTHERS)
        groups[name].append(setting)
    return [(name, members) for name, members in groups.items() if members]


def shown_value(value: Any) -> str:
    """As a person types it."""
    return msgspec.json.encode(value).decode() if not isinstance(value, str) else value
