"""The page of all sources: tables, shard feeds and the uploads of each pipeline, with how complete they are and what
holds them up. Owns the list, its filters and its totals; one source is source_page.py's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.pages import show
from embedmill.dashboard.source_words import BINDS, NEEDS_A_PERSON
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.database.pipelines import list_pipelines
from embedmill.database.queries import load_queries
from embedmill.sources.coverage import SourceCoverage, overall_percent, source_coverage

_SQL = load_queries("embedmill.dashboard", "sources.sql")
router = APIRouter()
PAGE_ROWS = 50
_STALE_STEP_SECONDS = 10
STATES = {"": "all", "incomplete": "incomplete", "person": "that need you"}


class SourceRow(msgspec.Struct, frozen=True):
    """A source as a line of the list. `stale_since`: since when the oldest of what waits does."""

    coverage: SourceCoverage
    is_paused: bool
    is_pipeline_paused: bool
    is_walking: bool
    next_walk_at: datetime | None
    stale_since: datetime | None

    @property
    def id(self) -> str:
        """Names the line on its page."""
        return f"source-{self.coverage.pipeline}-{self.coverage.record_source_id}"

    @property
    def is_empty(self) -> bool:
        """Nothing of it is there to be embedded, or was refused."""
        found = self.coverage
        return found.binds == "none" and not (
            found.chunks or found.rows or found.documents or found.unembeddable
        )

    @property
    def waiting(self) -> int:
        """Chunks to be embedded and rows to be read; a row counts as one."""
        return self.coverage.waiting_chunks + max(self.coverage.waiting_rows, self.coverage.unread_rows)

    @property
    def needs_a_person(self) -> bool:
        return self.coverage.binds in NEEDS_A_PERSON or self.coverage.trouble is not None


class Wanted(msgspec.Struct, frozen=True):
    """Which sources are looked at."""

    pipeline: str = ""
    name: str = ""
    state: str = ""
    page: int = 1

    def holds(self, row: SourceRow) -> bool:
        found = row.coverage
        return (
            (not self.pipeline or found.pipeline == self.pipeline)
            and self.name.casefold() in found.name.casefold()
            and (self.state != "incomplete" or found.binds != "none")
            and (self.state != "person" or row.needs_a_person)
        )


@router.get("/sources")
async def sources_page(
    request: Request, visitor: Reader, pipeline: str = "", q: str = "", state: str = "", page: int = 1
) -> Response:
    wanted = Wanted(pipeline, q.strip()[:255], state if state in STATES else "", min(max(page, 1), 100_000))

    async def load() -> Mapping[str, Any]:
        found = await load_sources(visitor, wanted, datetime.now(UTC))
        return {"origin": str(request.base_url).rstrip("/"), **found}

    return await show(request, visitor, "sources.html", load)


async def load_sources(visitor: Visitor, wanted: Wanted, now: datetime) -> Mapping[str, Any]:
    """The lines of one page, and the totals of all that the filters let through."""
    database, tenant_id = visitor.database, visitor.tenant_id
    every = await read_rows(visitor, now)
    chosen = sorted((row for row in every if wanted.holds(row)), key=_order)
    pages = max(-(-len(chosen) // PAGE_ROWS), 1)
    page = min(wanted.page, pages)
    return {
        "rows": chosen[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
        "has_records": any(row.coverage.record_source_id for row in every),
        "wanted": wanted,
        "states": STATES,
        "binds": BINDS,
        "pipelines": [each.name for each in await list_pipelines(database, tenant_id)],
        "page": page,
        "pages": pages,
        "asked": {"pipeline": wanted.pipeline, "q": wanted.name, "state": wanted.state},
        **_totals(chosen),
    }


async def read_rows(visitor: Visitor, now: datetime) -> list[SourceRow]:
    """All sources of the tenant, from counters."""
    found = await source_coverage(visitor.database, visitor.tenant_id)
    said = {
        row[0]: row[1:]
        for row in await visitor.database.fetch(_SQL["standings"], {"tenant_id": visitor.tenant_id})
    }
    rows = []
    for each in found:
        is_paused, is_pipeline_paused, is_walking, next_walk_at = said.get(
            each.record_source_id, (False, False, False, None)
        )
        rows.append(
            SourceRow(each, is_paused, is_pipeline_paused, is_walking, next_walk_at, stale_since(each, now))
        )
    return rows


def stale_since(coverage: SourceCoverage, now: datetime) -> datetime | None:
    """Since when the oldest of what waits does; in steps, so that a page which has not changed reads the same."""
    if coverage.stale_seconds is None:
        return None
    at = (now - timedelta(seconds=coverage.stale_seconds)).timestamp()
    return datetime.fromtimestamp(at // _STALE_STEP_SECONDS * _STALE_STEP_SECONDS, UTC)


def _order(row: SourceRow) -> tuple[bool, bool, float, str, str]:
    """What needs a person first, then what is least complete, and what is empty last."""
    return (
        not row.needs_a_person,
        row.is_empty,
        row.coverage.percent,
        row.coverage.name,
        row.coverage.pipeline,
    )


def _totals(rows: Sequence[SourceRow]) -> dict[str, Any]:
    unfinished = [row.coverage for row in rows if row.coverage.binds != "none"]
    etas = [each.eta_seconds for each in unfinished]
    known = [eta for eta in etas if eta is not None]
    return {
        "total": len(rows),
        "percent": overall_percent([row.coverage for row in rows]) if rows else None,
        "embedded": sum(row.coverage.embedded for row in rows),
        "waiting": sum(row.waiting for row in rows),
        "unembeddable": sum(row.coverage.unembeddable_total for row in rows),
        "failed": sum(row.coverage.failed for row in rows),
        "pace": sum(row.coverage.chunks_per_minute for row in rows),
        "unfinished": len(unfinished),
        "eta_seconds": max(known) if known and len(known) == len(etas) else None,
        "oldest": min((row.stale_since for row in rows if row.stale_since is not None), default=None),
        "needing": sum(row.needs_a_person for row in rows),
    }
