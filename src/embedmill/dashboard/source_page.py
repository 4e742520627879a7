"""The page of one source: how complete it is, its backfill, its definition. Owns what is shown; what is done there
stands in source_acts.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import show
from embedmill.dashboard.source_reading import (
    activity_chart,
    coverage_of,
    find_facts,
    read_definition,
    read_examples,
    read_limits,
)
from embedmill.dashboard.source_words import ADVICE, BINDS
from embedmill.dashboard.sources import stale_since
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.queue import standing
from embedmill.sources.audits import AuditRecord, list_audits
from embedmill.sources.backfill_orders import backfill_state

router = APIRouter()
_AUDITS_LOOKED_AT = 30


@router.get("/sources/{source_id:int}")
async def source_page(request: Request, visitor: Reader, source_id: int) -> Response:
    return await show_source(request, visitor, source_id, FormReading())


async def show_source(
    request: Request, visitor: Visitor, source_id: int, form: FormReading, status: int = 200
) -> Response:
    """The page, with what was typed into its forms and refused."""
    facts = await find_facts(visitor, source_id)
    is_stream = request.method == "GET" and "text/event-stream" in request.headers.get("accept", "")
    # Only what stands outside of the live part needs it.
    still = {} if is_stream else {"form": form, "definition": await read_definition(visitor, facts)}

    async def load() -> Mapping[str, Any]:
        return {**still, **await load_source(visitor, source_id, datetime.now(UTC))}

    return await show(request, visitor, "source.html", load, status=status)


async def load_source(visitor: Visitor, source_id: int, now: datetime) -> Mapping[str, Any]:
    """What changes by itself. Raises NotFoundError."""
    facts = await find_facts(visitor, source_id)
    coverage = await coverage_of(visitor, facts)
    workers = await standing.recent_workers(visitor.service.operator)
    return {
        "here": facts.address,
        "source": facts,
        "it": coverage,
        "stale_since": stale_since(coverage, now),
        "binds": BINDS,
        "advice": ADVICE.get(coverage.binds, ""),
        "has_workers": any(worker.is_at_work for worker in workers),
        "walk": await backfill_state(visitor.database, facts.walked),
        "limits": await read_limits(visitor, facts),
        "examples": await read_examples(visitor, facts, sorted(coverage.unembeddable)),
        "throughput": await activity_chart(visitor, facts, now),
        "last_audit": await _last_audit(visitor, source_id),
    }


async def _last_audit(visitor: Visitor, source_id: int) -> AuditRecord | None:
    """The newest audit of just this source, among the newest of all."""
    found = await list_audits(visitor.database, visitor.tenant_id, limit=_AUDITS_LOOKED_AT)
    return next((each for each in found if each.scope.record_source_id == source_id), None)
