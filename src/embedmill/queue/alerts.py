"""Alerts as people read them: what is open, what was, and that somebody has seen it. Owns reading and acknowledging;
raising and resolving is the database's (functions/57 to 59), by a sweep of the leader.

Row-level security shows a tenant its own alerts and never the installation's: whoever asks for those too connects as
the owner of the schema.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, ConflictError, NotFoundError

_SQL = load_queries("embedmill.queue", "alerts.sql")
_INSTALLATION = 0
MOST_OPEN = 1000
LONGEST_SILENCE_SECONDS = 366 * 86_400

Severity = Literal["warning", "critical"]
State = Literal["open", "resolved", "all"]


class Alert(msgspec.Struct, frozen=True):
    """`message` says what is so, since when, and what to do next; `subject` is the pipeline, source, quota key, ..., ''
    where there is one only. `began_at`: since when it is so; `seen_at`: when it was so last. Acknowledged, it is silent
    until `silenced_until`, None: until it is resolved."""

    id: int
    kind: str
    is_installations: bool
    subject: str
    severity: Severity
    message: str
    numbers: dict[str, Any]
    began_at: datetime
    raised_at: datetime
    seen_at: datetime
    resolved_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    silenced_until: datetime | None

    @property
    def is_open(self) -> bool:
        return self.resolved_at is None

    @property
    def needs_attention(self) -> bool:
        """Open, and nobody has said yet that he saw it."""
        return self.is_open and self.acknowledged_at is None


class AlertCursor(msgspec.Struct, frozen=True, array_like=True):
    """The last alert of a page: the next one goes on behind it."""

    is_resolved: bool
    id: int


async def open_alerts(
    database: Database, tenant_id: int, *, with_installation: bool, limit: int = MOST_OPEN
) -> list[Alert]:
    """What needs attention now, acknowledged or not: critical ones first, then the newest."""
    given = {"owners": _owners(tenant_id, with_installation), "limit": limit}
    return [_alert(row) for row in await database.fetch(_SQL["open"], given)]


async def list_alerts(
    database: Database,
    tenant_id: int,
    *,
    with_installation: bool,
    state: State = "all",
    after: AlertCursor | None = None,
    limit: int,
) -> list[Alert]:
    """A page: open ones first, then those that were resolved, each newest first."""
    rows = await database.fetch(
        _SQL["page"],
        {
            "owners": _owners(tenant_id, with_installation),
            "wants_open": state != "resolved",
            "wants_resolved": state != "open",
            "after_is_resolved": after is not None and after.is_resolved,
            "after_id": None if after is None else after.id,
            "limit": limit,
        },
    )
    return [_alert(row) for row in rows]


async def acknowledge(
    database: Database,
    tenant_id: int,
    alert_id: int,
    *,
    with_installation: bool,
    seconds: float | None = None,
    actor: str,
) -> Alert:
    """Say that somebody has seen it: it is told no more for so long (None: until it is resolved), also where it is
    resolved and raised again meanwhile. Raises NotFoundError, ConflictError where it is resolved, ConfigurationError
    for a time that cannot be."""
    if seconds is not None and not 0 < seconds <= LONGEST_SILENCE_SECONDS:
        raise ConfigurationError("an alert is silenced for more than 0 seconds and at most a year")
    given = {"id": alert_id, "owners": _owners(tenant_id, with_installation)}
    async with database.transaction() as connection:
        await connection.execute(_SQL["act_as"], {"actor": actor})
        acting = {**given, "seconds": seconds, "actor": actor}
        row = await (await connection.execute(_SQL["acknowledge"], acting)).fetchone()
        if row is not None:
            return _alert(row[:-1])
        was = await (await connection.execute(_SQL["get"], given)).fetchone()
    if was is None:
        raise NotFoundError(f"there is no alert {alert_id}: `embedmill alerts --all` lists them")
    raise ConflictError(f"alert {alert_id} is resolved: there is nothing to acknowledge")


def _owners(tenant_id: int, with_installation: bool) -> list[int]:
    """Whose, as the indexes have it."""
    return [tenant_id, _INSTALLATION] if with_installation else [tenant_id]


def _alert(row: tuple[Any, ...]) -> Alert:
    fields = [*row[:6], msgspec.json.decode(row[6]), *row[7:]]
    return Alert(*fields)
