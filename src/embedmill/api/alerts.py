"""/api/v1/alerts: what needs attention. Owns the wire's shape; raising and resolving is the database's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from embedmill.access.keys import Role
from embedmill.api.problems import Problem, describe
from embedmill.api.service import Caller, Reader, Service, Writer
from embedmill.api.wire import InvalidCursorError, Wire, decode_cursor, encode_cursor
from embedmill.database.pool import Database
from embedmill.queue import alerts as records
from embedmill.service import ServiceApp

router = APIRouter(prefix="/alerts", tags=["alerts"])


class Alert(Wire):
    """Something that needs attention: `message` says what is so, since when, and what to do next. `scope`: the tenant's
    own, or of the whole installation, which operators see. `subject` is the pipeline, source, quota key, ...
    Acknowledged, it is told no more until `silencedUntil`; null: until it is resolved."""

    alert_id: int
    kind: str
    scope: Literal["tenant", "installation"]
    subject: str
    severity: Literal["warning", "critical"]
    message: str
    numbers: dict[str, Any]
    began_at: datetime
    raised_at: datetime
    seen_at: datetime
    resolved_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    silenced_until: datetime | None

    @classmethod
    def of(cls, alert: records.Alert) -> Alert:
        fields = {
            name: getattr(alert, name) for name in cls.model_fields if name not in {"alert_id", "scope"}
        }
        scope: Literal["tenant", "installation"] = "installation" if alert.is_installations else "tenant"
        return cls(alert_id=alert.id, scope=scope, **fields)


class AlertPage(Wire):
    alerts: list[Alert]
    next_cursor: str | None


class Acknowledgement(Wire):
    """For how long nothing more is told of it; null: until it is resolved."""

    seconds: Annotated[float | None, Field(gt=0, le=records.LONGEST_SILENCE_SECONDS)] = None


@router.get("", responses=describe(401, 403, 422, 429))
async def list_alerts(
    caller: Reader,
    service: Service,
    state: Literal["open", "resolved", "all"] = "open",
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> AlertPage:
    """Open alerts first, then those that were resolved, each newest first. An operator sees those of the installation
    as well."""
    try:
        after = None if cursor is None else decode_cursor(cursor, records.AlertCursor)
    except InvalidCursorError as error:
        raise Problem(422, "invalid_cursor", str(error)) from error
    found = await records.list_alerts(
        _database(caller, service),
        caller.tenant_id,
        with_installation=_is_operator(caller),
        state=state,
        after=after,
        limit=limit + 1,
    )
    shown = found[:limit]
    last = records.AlertCursor(not shown[-1].is_open, shown[-1].id) if len(found) > limit else None
    return AlertPage(
        alerts=[Alert.of(each) for each in shown], next_cursor=None if last is None else encode_cursor(last)
    )


@router.post("/{alertId}/acknowledge", responses=describe(401, 403, 404, 409, 422, 429))
async def acknowledge_alert(
    alert_id: Annotated[int, Path(alias="alertId", ge=1, le=2**63 - 1)],
    caller: Writer,
    service: Service,
    wanted: Acknowledgement | None = None,
) -> Alert:
    """Say that somebody has seen it: webhooks are told no more of it for so long, also where it comes back
    meanwhile."""
    return Alert.of(
        await records.acknowledge(
            _database(caller, service),
            caller.tenant_id,
            alert_id,
            with_installation=_is_operator(caller),
            seconds=None if wanted is None else wanted.seconds,
            actor=caller.principal.actor,
        )
    )


def _is_operator(caller: Caller) -> bool:
    return caller.principal.role.allows(Role.OPERATOR)


def _database(caller: Caller, service: ServiceApp) -> Database:
    """A tenant's own database does not show what belongs to the installation."""
    return service.operator if _is_operator(caller) else caller.database
