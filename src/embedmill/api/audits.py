"""/api/v1/audits: what audits found, and the ordering of one. Owns the wire's shape; workers carry audits out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from embedmill.api.problems import describe
from embedmill.api.service import Admin, Reader
from embedmill.api.wire import Wire
from embedmill.sources import audits
from embedmill.sources.audit_kinds import Example, Finding

router = APIRouter(prefix="/audits", tags=["audits"])


class AuditExample(Wire):
    """One of what was found: a row's key or what else it is known by, and what is wrong with it."""

    id: str
    source: str | None
    document_id: int | None
    detail: str | None

    @classmethod
    def of(cls, example: Example) -> AuditExample:
        return cls(
            id=example.id, source=example.source, document_id=example.document_id, detail=example.detail
        )


class AuditFinding(Wire):
    """All that was found of one kind, and how many of these were set right."""

    kind: str
    count: int
    mended: int
    examples: list[AuditExample]

    @classmethod
    def of(cls, finding: Finding) -> AuditFinding:
        return cls(
            kind=finding.kind,
            count=finding.count,
            mended=finding.mended,
            examples=[AuditExample.of(example) for example in finding.examples],
        )


class Audit(Wire):
    """An audit of the tenant, of one pipeline or one source. While `endedAt` is null it waits or is under way, and has
    found so much so far. `mends`: what it sets right."""

    audit_id: int
    pipeline: str | None
    source: str | None
    mends: Literal["nothing", "books", "all"]
    started_at: datetime
    ended_at: datetime | None
    looked: int
    actor: str
    findings: list[AuditFinding]

    @classmethod
    def of(cls, record: audits.AuditRecord) -> Audit:
        return cls(
            audit_id=record.id,
            pipeline=record.pipeline,
            source=record.source,
            mends=record.mends,
            started_at=record.started_at,
            ended_at=record.ended_at,
            looked=record.looked,
            actor=record.actor,
            findings=[AuditFinding.of(finding) for finding in record.findings],
        )


class AuditList(Wire):
    audits: list[Audit]


_Name = Annotated[str, Field(max_length=255)]


class NewAudit(Wire):
    """Of everything, where neither a pipeline nor a source is named. A repair may pay for vectors and delete some."""

    pipeline: _Name | None = None
    source: _Name | None = None
    repair: bool = False


@router.get("", responses=describe(401, 403, 422, 429))
async def list_audits(caller: Reader, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> AuditList:
    """The newest audits, with what they found."""
    found = await audits.list_audits(caller.database, caller.tenant_id, limit=limit)
    return AuditList(audits=[Audit.of(record) for record in found])


@router.post("", status_code=202, responses=describe(401, 403, 404, 409, 422, 429))
async def order_audit(new: NewAudit, caller: Admin) -> Audit:
    """Order an audit: a worker takes it up within seconds, and carries it out slowly beside its work."""
    scope = await audits.find_scope(
        caller.database, caller.tenant_id, pipeline=new.pipeline, source=new.source
    )
    ordered = await audits.order_audit(
        caller.database,
        scope,
        mends="all" if new.repair else "nothing",
        actor=caller.principal.actor,
    )
    return Audit.of(ordered)
