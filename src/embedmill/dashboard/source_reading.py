"""What one source's page reads: what it is, how complete it is, what is not embeddable and why, how its backfill
stands. Owns the reading; must not act, and must not render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from embedmill.dashboard.charts import Bar, Chart, draw
from embedmill.dashboard.visitors import Visitor
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError
from embedmill.sources.backfill_orders import BackfillSource
from embedmill.sources.column_facts import ColumnFacts, column_facts
from embedmill.sources.coverage import SourceCoverage, source_coverage
from embedmill.sources.shard_feeds import ShardFeed, list_feeds
from embedmill.sources.tables import TableSource, list_tables

_SQL = load_queries("embedmill.dashboard", "sources.sql")
_LARGEST_ID = 2**31 - 1
_EXAMPLES = 3
_MINUTES = 60


class SourceFacts(msgspec.Struct, frozen=True):
    """A source, whatever its kind (table, shards)."""

    id: int
    kind: str
    name: str
    pipeline: str
    pipeline_id: int
    template: str | None
    priority: str
    paused_at: datetime | None
    is_pipeline_paused: bool
    created_at: datetime

    @property
    def address(self) -> str:
        return f"/sources/{self.id}"

    @property
    def is_table(self) -> bool:
        return self.kind == "table"

    @property
    def walked(self) -> BackfillSource:
        """As whoever orders a walk names it."""
        return BackfillSource(self.id, self.kind, self.name, self.pipeline, self.pipeline_id)


class Example(msgspec.Struct, frozen=True):
    """Something that cannot be embedded: a row's key, or that and the number of a chunk."""

    reason: str
    key: str
    message: str


class WalkLimits(msgspec.Struct, frozen=True):
    """What a walk was told, as far as it was."""

    batch_size: int
    batches_left: int | None
    rows_left: int | None
    delay_seconds: float
    ends_before: datetime | None
    budget_usd: Decimal | None


class Definition(msgspec.Struct, frozen=True):
    """How a source is read: of a table or of a feed. `triggers`: how many there are, and how many are switched on."""

    table: TableSource | None = None
    column: ColumnFacts | None = None
    triggers: tuple[int, int] = (0, 0)
    feed: ShardFeed | None = None


async def find_facts(visitor: Visitor, source_id: int) -> SourceFacts:
    """Raises NotFoundError, also for what is another tenant's."""
    row = None
    if 0 < source_id <= _LARGEST_ID:
        row = await visitor.database.fetch_one(
            _SQL["source"], {"id": source_id, "tenant_id": visitor.tenant_id}
        )
    if row is None:
        raise NotFoundError(f"there is no source {source_id}: it was removed, or is not yours")
    return SourceFacts(*row)


async def coverage_of(visitor: Visitor, facts: SourceFacts) -> SourceCoverage:
    """Raises NotFoundError where it was removed a moment ago."""
    found = await source_coverage(visitor.database, visitor.tenant_id, source_id=facts.id)
    if not found:
        raise NotFoundError(f"{facts.name} was removed a moment ago")
    return found[0]


async def find_table_source(visitor: Visitor, facts: SourceFacts) -> TableSource:
    """Raises NotFoundError for a shard feed."""
    found = await list_tables(
        visitor.database, visitor.tenant_id, pipeline=facts.pipeline, names=[facts.name]
    )
    if not found:
        raise NotFoundError(f"{facts.name} is no table, or was removed a moment ago")
    return found[0]


async def find_shard_feed(visitor: Visitor, facts: SourceFacts) -> ShardFeed:
    """Raises NotFoundError for a table."""
    found = await list_feeds(visitor.database, visitor.tenant_id, name=facts.name, pipeline=facts.pipeline)
    if not found:
        raise NotFoundError(f"{facts.name} is no shard feed, or was removed a moment ago")
    return found[0]


async def read_definition(visitor: Visitor, facts: SourceFacts) -> Definition:
    """How it is read. Looks into the user's table for as long as column_facts does, so not each second."""
    if not facts.is_table:
        return Definition(feed=await find_shard_feed(visitor, facts))
    table = await find_table_source(visitor, facts)
    # The tables of users are open to the role of workers, not to that of the service.
    column = await column_facts(visitor.service.operator, table)
    triggers = await visitor.database.fetch_one(_SQL["triggers"], {"id": facts.id})
    return Definition(table, column, (triggers[0], triggers[1]) if triggers else (0, 0))


async def read_examples(visitor: Visitor, facts: SourceFacts, reasons: Sequence[str]) -> list[Example]:
    """A few of what cannot be embedded, by reason."""
    if not reasons:
        return []
    asked = {"id": facts.id, "reasons": list(reasons), "limit": _EXAMPLES}
    return [Example(*row) for row in await visitor.database.fetch(_SQL["examples"], asked)]


async def read_limits(visitor: Visitor, facts: SourceFacts) -> WalkLimits | None:
    row = await visitor.database.fetch_one(_SQL["order"], {"id": facts.id})
    return None if row is None else WalkLimits(*row)


async def activity_chart(visitor: Visitor, facts: SourceFacts, now: datetime) -> Chart:
    """Chunks by minute in the last hour; the minute that has only begun is left out."""
    rows = await visitor.database.fetch(
        _SQL["minutes"], {"id": facts.id, "pipeline_id": facts.pipeline_id, "minutes": _MINUTES + 1}
    )
    found: Mapping[datetime, Any] = {row[0].astimezone(UTC): (row[1], row[2]) for row in rows}
    this_minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    minutes = [this_minute - timedelta(minutes=back) for back in range(_MINUTES, 0, -1)]
    bars = [Bar(f"{minute:%H:%M} UTC", found.get(minute, (0, 0)), minute) for minute in minutes]
    return draw("Chunks by minute, the last hour", ("embedded", "not embeddable"), bars)
