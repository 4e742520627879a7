"""The queue's configuration as the programs see it: read whole, changed one value at a time. Owns the calls;
must not hold bounds or defaults of its own: the database has them and checks them (functions/15_config.sql)."""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError

_SQL = load_queries("embedmill.queue", "config.sql")


class QueueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of the queue at one moment; the defaults are for whoever works without a database."""

    queue_enabled: bool = True
    max_concurrent_workers: int = 3
    min_concurrent_workers: int = 1
    scale_up_after_seconds: int = 10
    scale_down_after_seconds: int = 60
    outage_patience_seconds: int = 900
    batch_size: int = 500
    rate_limit_delay_ms: int = 1000
    max_retries: int = 3
    lease_seconds: int = 600
    worker_heartbeat_interval_ms: int = 30_000
    queue_cleanup_interval_hours: int = 24
    history_retention_days: int = 90
    audit_interval_hours: int = 24
    audit_repair: bool = False
    priority_weights: dict[str, float] = msgspec.field(
        default_factory=lambda: {"high": 3.0, "medium": 2.0, "low": 1.0}
    )
    priority_aging_seconds: int = 60
    api_quota_per_minute: int = 60
    token_quota_per_minute: int = 100_000
    cancellation_check_interval: int = 25
    usage_retention_days: int = 0
    originals_retention_days: int = 0
    events_retention_days: int = 7
    webhook_retention_days: int = 90
    alert_retention_days: int = 90
    audit_log_retention_days: int = 0
    alert_after_seconds: int = 60
    alert_clear_seconds: int = 120
    alert_waiting_seconds: int = 900
    alert_quota_seconds: int = 900
    alert_failure_percent: int = 20
    alert_dead_letters: int = 100
    alert_coverage_drop_percent: int = 5
    alert_budget_percent: int = 80
    alert_transaction_seconds: int = 3600
    alert_xmin_age: int = 5_000_000


class Setting(msgspec.Struct, frozen=True):
    """One setting as a person sees it. `updated_at` of None: never changed. `actor` is who changed it last."""

    key: str
    value: Any
    default: Any
    minimum: int | None
    maximum: int | None
    description: str
    updated_at: str | None
    actor: str | None


async def read_config(database: Database) -> QueueConfig:
    """The configuration as it is now."""
    rows = await database.fetch(_SQL["values"])
    return msgspec.convert(dict(rows), QueueConfig)


async def list_settings(database: Database) -> list[Setting]:
    """Every setting, in the order of the names."""
    return [Setting(*row) for row in await database.fetch(_SQL["settings"])]


async def set_value(database: Database, key: str, value: str | None, *, actor: str) -> Any:
    """Set one value, given as a person types it (None: back to the default); returns the one before.

    Raises ConfigurationError that names the bounds, or the settings there are.
    """
    try:
        async with database.transaction() as connection:
            await connection.execute(_SQL["act_as"], {"actor": actor})
            cursor = await connection.execute(
                _SQL["set_value"], {"key": key, "value": None if value is None else _as_json(value)}
            )
            row = await cursor.fetchone()
    except psycopg.errors.InvalidParameterValue as error:
        raise ConfigurationError(error.diag.message_primary or str(error)) from error
    return row[0] if row else None


def _as_json(value: str) -> str:
    """What was typed as JSON where it is JSON, else as a string, which the database refuses with its reason."""
    try:
        msgspec.json.decode(value)
    except msgspec.DecodeError:
        return msgspec.json.encode(value).decode()
    return value
