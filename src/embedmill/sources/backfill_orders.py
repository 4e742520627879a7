"""Orders to walk over the rows of a source: begun, gone on with, stopped, scheduled; and how a walk stands. Owns what
an order says; carries nothing out (backfill.py does, for whoever reads the source)."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import structlog

from embedmill.core.cron import InvalidCronError, next_after
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, ConflictError, NotFoundError
from embedmill.sources.backfill import OUT_OF_BUDGET, usage_type_of
from embedmill.sources.tables import find_table

_SQL = load_queries("embedmill.sources", "backfill_orders.sql")
_log = structlog.get_logger(__name__)


class BackfillOrder(msgspec.Struct, frozen=True):
    """What a walk may take: so many rows, batches, seconds, US dollars for its own calls; None: as much as it takes.
    Its pace: rows a second, the seconds between two batches, the rows of a batch."""

    batches: int | None = None
    rows: int | None = None
    seconds: float | None = None
    budget_usd: Decimal | None = None
    rows_per_second: float | None = None
    delay_seconds: float | None = None
    batch_size: int | None = None

    @property
    def is_limited(self) -> bool:
        return self != BackfillOrder()


class BackfillSource(msgspec.Struct, frozen=True):
    """A source that a walk may be ordered of."""

    id: int
    kind: str
    name: str
    pipeline: str
    pipeline_id: int


class BackfillState(msgspec.Struct, frozen=True):
    """How a source's walk stands. `rows` of the source (None: not counted yet) of which `documents` were read;
    `rows_walked` past and `rows_read` since it began; chunks of the source; items of the walk that `waiting` (at most
    100,000 are counted); `cost_usd` and `tokens` of the walk's own calls since it began."""

    id: int
    name: str
    pipeline: str
    is_pipeline_paused: bool
    is_paused: bool
    trouble: str | None
    rows: int | None
    documents: int
    started_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    rereads: bool
    rows_walked: int
    rows_read: int
    rows_per_second: float | None
    schedule: str | None
    next_start_at: datetime | None
    chunks: int
    embedded: int
    unembeddable: int
    waiting: int
    cost_usd: Decimal
    tokens: int
    calls: int
    changes: int
    is_priced: bool

    @property
    def is_running(self) -> bool:
        return self.started_at is not None and self.ended_at is None

    @property
    def is_out_of_budget(self) -> bool:
        return self.end_reason == OUT_OF_BUDGET

    @property
    def rows_left(self) -> int | None:
        """Rows that this walk has still to see to."""
        if self.rows is None:
            return None
        return max(0, self.rows - (self.rows_walked if self.rereads else self.documents))

    @property
    def coverage_percent(self) -> float:
        """Embedded chunks of those that can be; a row that is not read yet counts as one."""
        lacking = max(0, (self.rows or 0) - self.documents)
        wanted = self.chunks - self.unembeddable + lacking
        if wanted <= 0:
            return 100.0
        return int(10_000 * self.embedded / wanted) / 100


class Failure(msgspec.Struct, frozen=True):
    """Rows that are not embedded, and why: `fresh` of them since the walk began; `message` is that of one of them."""

    reason: str
    rows: int
    fresh: int
    message: str


async def find_source(
    database: Database, tenant_id: int, name: str, *, pipeline: str | None = None
) -> BackfillSource:
    """A table, written as a person writes it, or a shard type. Raises NotFoundError with those that there are,
    ConflictError where there are several and no pipeline was named."""
    values = {"tenant_id": tenant_id, "pipeline": pipeline}
    found = await database.fetch(_SQL["sources"], {**values, "names": [name]})
    if not found:
        try:
            table = await find_table(database, tenant_id, name, pipeline=pipeline)
        except NotFoundError as error:
            others = await database.fetch(_SQL["sources"], {**values, "pipeline": None, "names": None})
            if not others:
                raise NotFoundError(
                    f"there is no table or shard type {name!r}: `embedmill table add` adds a table"
                ) from error
            names = ", ".join(dict.fromkeys(row[2] for row in others))
            where = f" in the pipeline {pipeline}" if pipeline else ""
            raise NotFoundError(
                f"there is no table or shard type {name!r}{where}; there are: {names}"
            ) from error
        return BackfillSource(table.id, "table", table.name, table.pipeline, table.pipeline_id)
    if len(found) > 1:
        pipelines = ", ".join(row[3] for row in found)
        raise ConflictError(f"{name} is in several pipelines ({pipelines}): say which by --pipeline")
    return BackfillSource(*found[0])


async def order_backfill(
    database: Database,
    tenant_id: int,
    source: BackfillSource,
    order: BackfillOrder,
    *,
    from_start: bool = False,
    rereads: bool = False,
    actor: str,
) -> bool:
    """Begin a walk, or go on with the one that there is: one that came to its end begins at the first row. True where
    it goes on. `rereads`: also rows that have their document, as one does after triggers were switched off. Raises
    ConfigurationError for a budget where the price is unknown."""
    async with database.transaction() as connection:
        cursor = await connection.execute(_SQL["hold"], {"record_source_id": source.id})
        row = await cursor.fetchone()
        if row is None:
            raise NotFoundError(f"{source.name} was removed a moment ago")
        is_running, end_reason, is_priced = row
        if order.budget_usd is not None and not is_priced:
            raise ConfigurationError(
                f"a budget cannot be held: what pipeline {source.pipeline!r} costs is not known. It is said by "
                "--price-per-million-tokens when a pipeline is made, or is migrated"
            )
        goes_on = (is_running or end_reason not in (None, "done")) and not from_start
        if goes_on and rereads:
            # What was walked past without being read is to be read as well.
            goes_on = False
        values = {
            "record_source_id": source.id,
            "rereads": rereads,
            "usage_type": usage_type_of(source.name),
            "is_limited": order.is_limited,
            **msgspec.structs.asdict(order),
        }
        await connection.execute(_SQL["go_on" if goes_on else "begin"], values)
        await _record(connection, tenant_id, actor, "backfill.order", source, order)
    return goes_on


async def stop_backfill(database: Database, tenant_id: int, source: BackfillSource, *, actor: str) -> bool:
    """End a walk; what waits in the queue is embedded all the same. False where none ran."""
    async with database.transaction() as connection:
        cursor = await connection.execute(_SQL["stop"], {"record_source_id": source.id})
        if await cursor.fetchone() is None:
            return False
        await _record(connection, tenant_id, actor, "backfill.stop", source, None)
    return True


async def schedule_backfill(
    database: Database,
    tenant_id: int,
    source: BackfillSource,
    schedule: str,
    order: BackfillOrder | None = None,
    *,
    actor: str,
    now: datetime | None = None,
) -> datetime:
    """Begin a walk at the first row at each time of a cron expression (UTC), at the pace of the order; returns the
    next. Raises ConfigurationError."""
    try:
        next_start_at = next_after(schedule, now or datetime.now(UTC))
    except InvalidCronError as error:
        raise ConfigurationError(str(error)) from error
    pace = order or BackfillOrder()
    async with database.transaction() as connection:
        await connection.execute(
            _SQL["schedule"],
            {
                "record_source_id": source.id,
                "schedule": schedule,
                "next_start_at": next_start_at,
                "batch_size": pace.batch_size,
                "rows_per_second": pace.rows_per_second,
                "delay_seconds": pace.delay_seconds,
            },
        )
        await _record(connection, tenant_id, actor, "backfill.schedule", source, schedule)
    return next_start_at


async def unschedule_backfill(
    database: Database, tenant_id: int, source: BackfillSource, *, actor: str
) -> bool:
    """No more walks by themselves; False where there was no schedule."""
    async with database.transaction() as connection:
        cursor = await connection.execute(_SQL["unschedule"], {"record_source_id": source.id})
        if await cursor.fetchone() is None:
            return False
        await _record(connection, tenant_id, actor, "backfill.unschedule", source, None)
    return True


async def reckon_schedules(database: Database, now: datetime | None = None) -> int:
    """Say of each schedule whose walk has been started when the next is; how many. Harmless to repeat."""
    rows = await database.fetch(_SQL["unreckoned"])
    for record_source_id, schedule in rows:
        values = {"record_source_id": record_source_id, "schedule": schedule}
        try:
            next_start_at = next_after(schedule, now or datetime.now(UTC))
        except InvalidCronError as error:
            _log.error("schedule cannot be read", record_source_id=record_source_id, error=str(error))
            await database.fetch(_SQL["drop_schedule"], values)
            continue
        await database.fetch(_SQL["set_next_start"], {**values, "next_start_at": next_start_at})
    return len(rows)


async def backfill_state(database: Database, source: BackfillSource) -> BackfillState:
    """Raises NotFoundError where the source was removed."""
    row = await database.fetch_one(
        _SQL["state"], {"record_source_id": source.id, "usage_type": usage_type_of(source.name)}
    )
    if row is None:
        raise NotFoundError(f"{source.name} was removed")
    return BackfillState(*row)


async def backfilled_chunks(database: Database, source: BackfillSource) -> int:
    """How many vectors the walk's items brought since it began, as long as the history has them."""
    row = await database.fetch_one(_SQL["embedded"], {"record_source_id": source.id})
    return int(row[1]) if row else 0


async def backfill_failures(database: Database, tenant_id: int, source: BackfillSource) -> list[Failure]:
    """Rows of the source that are not embedded and will not be by themselves."""
    rows = await database.fetch(_SQL["failures"], {"tenant_id": tenant_id, "record_source_id": source.id})
    return [Failure(*row) for row in rows]


async def _record(
    connection: Connection, tenant_id: int, actor: str, action: str, source: BackfillSource, value: object
) -> None:
    """One act in the audit log of this transaction."""
    await connection.execute(_SQL["act_as"], {"actor": actor})
    await connection.execute(
        _SQL["record_action"],
        {
            "tenant_id": tenant_id,
            "action": action,
            "subject": source.name,
            "value": None if value is None else msgspec.json.encode(value).decode(),
        },
    )
