"""The pages of audits: what was found in silence, in plain words, and its repair by a click. Owns the forms and what is
told before; workers carry audits out, and sources/audits.py keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.audit_estimate import RepairEstimate, estimate_repair
from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.source_words import step_words
from embedmill.dashboard.visitors import Admin, Reader, Visitor
from embedmill.database.pipelines import list_pipelines
from embedmill.database.queries import load_queries
from embedmill.errors import EmbedmillError, NotFoundError
from embedmill.queue import standing
from embedmill.sources.audit_kinds import KINDS, Finding, unmended
from embedmill.sources.audits import (
    AuditRecord,
    Mends,
    Scope,
    find_audit,
    find_scope,
    list_audits,
    order_audit,
)

_SQL = load_queries("embedmill.dashboard", "sources.sql")
router = APIRouter(prefix="/sources/audits")
_SHOWN = 30
_MENDS: Mapping[str, Mends] = {"nothing": "nothing", "books": "books", "all": "all"}
_LARGEST_ID = 2**63 - 1


class AuditLine(msgspec.Struct, frozen=True):
    """An audit as a line of the list."""

    record: AuditRecord
    found: int
    left: int

    @classmethod
    def of(cls, record: AuditRecord) -> AuditLine:
        return cls(record, sum(each.count for each in record.findings), unmended(record.findings))

    @property
    def scope(self) -> str:
        return scope_words(self.record)

    @property
    def address(self) -> str:
        return f"/sources/audits/{self.record.id}"

    @property
    def state(self) -> tuple[str, str]:
        """(tone, words)."""
        if self.record.ended_at is None:
            has_begun = self.record.step is not None or self.record.done_steps or self.record.looked
            return ("running", "under way") if has_begun else ("waiting", "waits for a worker")
        if self.left:
            return "warning", f"{self.left:,} left"
        return "ok", "all set right" if self.found else "nothing wrong"


def scope_words(record: AuditRecord) -> str:
    """What was looked at."""
    if record.source is not None:
        return record.source
    if record.scope.record_source_id is not None:
        return "a source that was removed"
    return f"pipeline {record.pipeline}" if record.pipeline is not None else "everything"


@router.get("")
async def audits_page(request: Request, visitor: Reader) -> Response:
    return await _show_list(request, visitor, FormReading())


async def _show_list(request: Request, visitor: Visitor, form: FormReading, status: int = 200) -> Response:
    async def load() -> Mapping[str, Any]:
        found = await list_audits(visitor.database, visitor.tenant_id, limit=_SHOWN)
        return {
            "here": "/sources/audits",
            "form": form,
            "lines": [AuditLine.of(record) for record in found],
            "scopes": await _scopes(visitor),
            "has_workers": await _has_workers(visitor),
            "step_words": step_words,
            "kinds": KINDS,
        }

    return await show(request, visitor, "audits.html", load, status=status)


async def _scopes(visitor: Visitor) -> list[tuple[str, str]]:
    """What can be audited: (value, words)."""
    sources = await visitor.database.fetch(_SQL["names"], {"tenant_id": visitor.tenant_id})
    return [
        ("", "Everything"),
        *(
            (f"pipeline:{each.name}", f"Pipeline {each.name}")
            for each in await list_pipelines(visitor.database, visitor.tenant_id)
        ),
        *((f"source:{pipeline}:{source}", f"{source} in {pipeline}") for pipeline, source in sources),
    ]


@router.post("")
async def order(request: Request, visitor: Admin) -> Response:
    """Order an audit; `scope` is the form's, `pipeline` and `source` are those of a source's own page."""
    form = await FormReading.of(request)
    mends = form.choice("mends", tuple(_MENDS))
    pipeline, source = form.text("pipeline"), form.text("source")
    if chosen := form.text("scope"):
        what, _, rest = chosen.partition(":")
        pipeline, source = (rest, None) if what == "pipeline" else _pipeline_and_source(rest)
    if form.errors:
        return await _show_list(request, visitor, form, 422)
    try:
        scope = await find_scope(visitor.database, visitor.tenant_id, pipeline=pipeline, source=source)
        ordered = await order_audit(visitor.database, scope, mends=_MENDS[mends], actor=visitor.actor)
    except EmbedmillError as error:
        form.refuse("scope", str(error))
        return await _show_list(request, visitor, form, 422)
    return redirect(f"/sources/audits/{ordered.id}", "Ordered: a worker takes it up within seconds.")


def _pipeline_and_source(rest: str) -> tuple[str, str]:
    """Of `default:public.jobs`: a pipeline's name has no colon."""
    pipeline, _, source = rest.partition(":")
    return pipeline, source


@router.get("/{audit_id:int}")
async def audit_page(request: Request, visitor: Reader, audit_id: int) -> Response:
    async def load() -> Mapping[str, Any]:
        record = await _find(visitor, audit_id)
        return {
            "line": AuditLine.of(record),
            "audit": record,
            "findings": [(finding, KINDS[finding.kind]) for finding in record.findings],
            "step": step_words(record.step),
            "has_workers": await _has_workers(visitor),
            "repair": await _repair(visitor, record),
        }

    return await show(request, visitor, "audit.html", load)


@router.post("/{audit_id:int}/repair")
async def repair(request: Request, visitor: Admin, audit_id: int) -> Response:
    """Look again at the same scope, and set right what is found: things may have moved since."""
    record = await _find(visitor, audit_id)
    form = await FormReading.of(request)
    mends = form.choice("mends", ("books", "all"))
    if form.errors or record.ended_at is None:
        said = form.error("mends") or "this audit is not through yet: wait for its end"
        return redirect(f"/sources/audits/{audit_id}", said, is_error=True)
    if _is_of_what_is_gone(record):
        said = "what was looked at was removed: audit everything instead"
        return redirect(f"/sources/audits/{audit_id}", said, is_error=True)
    scope = Scope(visitor.tenant_id, record.scope.pipeline_id, record.scope.record_source_id)
    ordered = await order_audit(visitor.database, scope, mends=_MENDS[mends], actor=visitor.actor)
    return redirect(
        f"/sources/audits/{ordered.id}", "The repair is ordered: a worker takes it up within seconds."
    )


async def _find(visitor: Visitor, audit_id: int) -> AuditRecord:
    """Raises NotFoundError, also for another tenant's."""
    if not 0 < audit_id <= _LARGEST_ID:
        raise NotFoundError(f"there is no audit {audit_id}")
    record = await find_audit(visitor.database, audit_id)
    if record.scope.tenant_id != visitor.tenant_id:
        raise NotFoundError(f"there is no audit {audit_id}")
    return record


async def _repair(visitor: Visitor, record: AuditRecord) -> RepairEstimate | None:
    """What setting right the rest would take; None where there is nothing, or it is not known yet."""
    left: list[Finding] = [each for each in record.findings if each.count > each.mended]
    if record.ended_at is None or not left or _is_of_what_is_gone(record) or not visitor.may("admin"):
        return None
    return await estimate_repair(visitor.database, visitor.tenant_id, record.scope, left)


def _is_of_what_is_gone(record: AuditRecord) -> bool:
    return (record.scope.record_source_id is not None and record.source is None) or (
        record.scope.pipeline_id is not None and record.pipeline is None
    )


async def _has_workers(visitor: Visitor) -> bool:
    workers = await standing.recent_workers(visitor.service.operator)
    return any(worker.is_at_work for worker in workers)
