"""/api/v1/coverage and /api/v1/activity: how complete the vectors are, source by source, and what was done in each
minute. Owns the wire's shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from embedmill.api.problems import describe
from embedmill.api.service import Reader
from embedmill.api.wire import Wire
from embedmill.sources import coverage as reckoning

router = APIRouter(tags=["coverage"])

Binding = Literal[
    "none", "paused", "trouble", "quota", "backfill", "budget", "embedding", "reading", "failed", "nobody"
]


class SourceCoverage(Wire):
    """One source of records (a table, a shard type), or what was uploaded to a pipeline. `unembeddable` counts by
    reason. `percent` is of what can be embedded, and 100 only if nothing is missing; `binds` says what the rest waits
    for, `etaSeconds` how long by that (null: nothing moves)."""

    pipeline: str
    kind: Literal["table", "shards", "uploads"]
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
    unlaunched_chunks: Annotated[
        int, Field(description="Of uploads at their preview: not embedded until somebody launches them.")
    ]
    stale_seconds: float | None
    percent: float
    chunks_per_minute: float
    eta_seconds: float | None
    binds: Binding
    trouble: str | None


class CoverageReport(Wire):
    """Every source, and all of them together."""

    percent: float
    sources: list[SourceCoverage]


class MinuteActivity(Wire):
    """Chunks of one source that were embedded, or refused for good, in one minute."""

    minute: datetime
    pipeline: str
    source: str | None
    embedded: int
    unembeddable: int


class ActivityReport(Wire):
    """Oldest first; minutes in which nothing was done are left out."""

    minutes: int
    activity: list[MinuteActivity]


@router.get("/coverage", responses=describe(401, 403, 422, 429))
async def get_coverage(
    caller: Reader,
    pipeline: Annotated[str | None, Query(max_length=100, description="Only this one.")] = None,
) -> CoverageReport:
    """How complete the vectors of each source are. From counters: it costs the same at any size."""
    found = await reckoning.source_coverage(caller.database, caller.tenant_id, pipeline=pipeline)
    return CoverageReport(
        percent=reckoning.overall_percent(found),
        sources=[SourceCoverage.model_validate(each) for each in found],
    )


@router.get("/activity", responses=describe(401, 403, 422, 429))
async def get_activity(
    caller: Reader,
    minutes: Annotated[int, Query(ge=1, le=reckoning.MOST_MINUTES, description="How far back.")] = 60,
) -> ActivityReport:
    """What was embedded in each of the last minutes. Kept for a week."""
    found = await reckoning.activity(caller.database, caller.tenant_id, minutes=minutes)
    return ActivityReport(minutes=minutes, activity=[MinuteActivity.model_validate(each) for each in found])
