"""Looking for alerts at moments of a test's own choice. Owns the clock of a test; must not assert."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from embedmill.app import App
from embedmill.queue.alerts import Alert, open_alerts
from embedmill.queue.config import set_value


class Watch:
    """Looks as the leader does, so many seconds after the test began."""

    def __init__(self, app: App, began: datetime) -> None:
        self._app = app
        self._began = began

    async def look(self, seconds: float) -> set[str]:
        """The kinds that are open after a look at that moment."""
        await self._app.database.fetch(
            "SELECT embedmill.watch_alerts(%s)", (self._began + timedelta(seconds=seconds),)
        )
        return {alert.kind for alert in await self.open()}

    async def open(self) -> list[Alert]:
        """Of the tenant and of the installation."""
        return await open_alerts(self._app.database, await self._app.tenant_id(), with_installation=True)

    async def alert(self, kind: str) -> Alert:
        (found,) = [alert for alert in await self.open() if alert.kind == kind]
        return found

    async def told(self) -> list[tuple[str, str, str]]:
        """Type, kind and severity of each event about alerts, in order."""
        rows = await self._app.database.fetch(
            "SELECT type, payload ->> 'kind', payload ->> 'severity' FROM embedmill.events "
            "WHERE type LIKE 'alert.%%' ORDER BY id",
            {},
        )
        return [(row[0], row[1], row[2]) for row in rows]


async def open_watch(app: App) -> Watch:
    """Its clock begins with the database's, now."""
    row = await app.database.fetch_one("SELECT clock_timestamp()")
    assert row is not None
    return Watch(app, row[0])


async def configure(app: App, **values: Any) -> None:
    """Set values of the configuration."""
    for key, value in values.items():
        await set_value(app.database, key, str(value).lower(), actor="test")
