"""The first page: whether everything is embedded, what waits and why, what it costs, what needs a person. Owns only how
these are put beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.alerts import attention
from embedmill.dashboard.charts import Bar, Chart, draw
from embedmill.dashboard.pages import show
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.queue import standing
from embedmill.queue.sharing import Quota, list_quotas
from embedmill.sources.coverage import SourceCoverage, overall_percent, source_coverage
from embedmill.usage.budgets import tenant_budget

router = APIRouter()
_MINUTES = 60
_MOST_SOURCES = 50


@router.get("/")
async def overview(request: Request, visitor: Reader) -> Response:
    return await show(request, visitor, "overview.html", lambda: load_overview(visitor, datetime.now(UTC)))


async def load_overview(visitor: Visitor, now: datetime) -> Mapping[str, Any]:
    database, tenant_id = visitor.database, visitor.tenant_id
    sources = await source_coverage(database, tenant_id)
    workers = await standing.recent_workers(visitor.service.operator)
    return {
        "alerts": await attention(visitor),
        "is_empty": not any(source.chunks or source.documents or source.rows for source in sources),
        "sources": sorted(sources, key=lambda source: source.percent)[:_MOST_SOURCES],
        "hidden_sources": max(len(sources) - _MOST_SOURCES, 0),
        "embedded": sum(source.embedded for source in sources),
        "overall": overall_percent(sources) if sources else None,
        "unembeddable": sum(source.unembeddable_total for source in sources),
        "slowest": _slowest(sources),
        "counts": await standing.queue_counts(database, tenant_id),
        "held_up": await standing.held_up(database, tenant_id),
        "spent": await standing.spent(database, tenant_id),
        "budget": await tenant_budget(database, tenant_id),
        "quotas": [quota for quota in await list_quotas(database, tenant_id) if _is_own(quota)],
        "workers_at_work": sum(worker.is_at_work for worker in workers),
        "troubles": await standing.latest_troubles(database, tenant_id),
        "throughput": throughput(await standing.minutes(database, tenant_id, last=_MINUTES), now),
    }


def throughput(rows: list[standing.Minute], now: datetime) -> Chart:
    """Chunks embedded and refused in each of the last minutes, the one that has only begun included."""
    embedded, refused = Counter[datetime](), Counter[datetime]()
    for row in rows:
        embedded[row.minute.astimezone(UTC)] += row.embedded
        refused[row.minute.astimezone(UTC)] += row.unembeddable
    this_minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    minutes = [this_minute - timedelta(minutes=back) for back in reversed(range(_MINUTES))]
    bars = [Bar(f"{minute:%H:%M} UTC", (embedded[minute], refused[minute]), minute) for minute in minutes]
    return draw("Chunks by minute, the last hour", ("embedded", "not embeddable"), bars)


def _slowest(sources: list[SourceCoverage]) -> SourceCoverage | None:
    """The source that will be done last: what binds it, binds all."""
    open_sources = [source for source in sources if source.binds != "none"]
    return max(
        open_sources,
        key=lambda source: (source.eta_seconds is None, source.eta_seconds or 0.0),
        default=None,
    )


def _is_own(quota: Quota) -> bool:
    """Whether a pipeline of this tenant goes by it, and it limits anything: other tenants' are written tenant/name."""
    is_limited = quota.calls_per_minute is not None or quota.tokens_per_minute is not None
    return is_limited and any("/" not in name for name in quota.pipelines)
