"""What needs attention."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from embedmill.client.records.base import Moment, Record

AlertState: TypeAlias = Literal["open", "resolved", "all"]


class Alert(Record, frozen=True):
    """`message` says what is so, since when, and what to do next. `scope`: "tenant", or "installation", which operators
    see. Acknowledged, it is told no more until `silenced_until`; None: until it is resolved."""

    alert_id: int
    kind: str
    scope: str
    subject: str
    severity: str
    message: str
    numbers: dict[str, Any]
    began_at: Moment
    raised_at: Moment
    seen_at: Moment
    resolved_at: Moment | None
    acknowledged_at: Moment | None
    acknowledged_by: str | None
    silenced_until: Moment | None


class AlertPage(Record, frozen=True):
    alerts: tuple[Alert, ...]
    next_cursor: str | None
