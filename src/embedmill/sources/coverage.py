"""How complete the vectors of each source are, and what was done in each minute. Owns the values as they are shown; the
reckoning is the database's (functions/76_coverage.sql), from counters."""

from __future__ import annotations

from datetime import datetime

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.sources", "coverage.sql")

MOST_MINUTES = 7 * 24 * 60
"""For so long activity is kept."""


class SourceCoverage(msgspec.Struct, frozen=True):
    """One source of records, or the uploads of a pipeline (`kind` uploads, `record_source_id` 0).

    `rows` of the source (None: not counted yet, or uploads) of which `unread_rows` were not read yet;
    `unembeddable` by reason; `failed` items wait for a person; `waiting_rows` changed and are to be read,
    `waiting_chunks` are to be embedded; the oldest of these has waited `stale_seconds`. `unlaunched_chunks` stand
    at the preview of an upload. `percent` is 100 only if nothing is missing. `binds`: none, paused, trouble, quota,
    backfill, budget, embedding, reading, failed (a person must act) or nobody (what is missing nobody sees to).
    `eta_seconds` None: nothing moves."""

    pipeline: str
    record_source_id: int
    kind: str
    name: str
    rows: int | None
    unread_rows: int
    documents: int | None
    chunks: int
    embedded: int
    unembeddable: dict[str, int]
    failed: int
    waiting_rows: int
    waiting_chunks: int
    unlaunched_chunks: int
    stale_seconds: float | None
    percent: float
    chunks_per_minute: float
    eta_seconds: float | None
    binds: str
    trouble: str | None

    @property
    def unembeddable_total(self) -> int:
        return sum(self.unembeddable.values())


class Activity(msgspec.Struct, frozen=True):
    """Chunks of one source that were embedded, or refused for good, in one minute."""

    minute: datetime
    pipeline: str
    record_source_id: int
    source: str | None
    embedded: int
    unembeddable: int


async def source_coverage(
    database: Database, tenant_id: int, *, pipeline: str | None = None, source_id: int | None = None
) -> list[SourceCoverage]:
    """Each source of a tenant, or of one pipeline, or the one."""
    asked = {"tenant_id": tenant_id, "source_id": source_id}
    found = [SourceCoverage(*row) for row in await database.fetch(_SQL["coverage"], asked)]
    return [each for each in found if pipeline is None or each.pipeline == pipeline]


def overall_percent(sources: list[SourceCoverage]) -> float:
    """Of all of them together; 100 only if nothing is missing."""
    embedded = sum(each.embedded for each in sources)
    left = sum(each.waiting_chunks + each.unread_rows for each in sources)
    is_complete = all(each.binds == "none" for each in sources)
    if embedded + left == 0:
        return 100.0 if is_complete else 0.0
    percent = int(10_000 * embedded / (embedded + left)) / 100
    return percent if is_complete else min(percent, 99.99)


async def activity(database: Database, tenant_id: int, *, minutes: int) -> list[Activity]:
    """The last minutes, oldest first; those in which nothing was done are left out."""
    rows = await database.fetch(
        _SQL["activity"], {"tenant_id": tenant_id, "minutes": min(minutes, MOST_MINUTES)}
    )
    return [Activity(*row) for row in rows]
