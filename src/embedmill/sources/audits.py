"""Audits as rows: begun or ordered, taken up, saved as they go on, listed. Owns the table and who carries an audit out
at the moment; must not look for faults (audit.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConflictError, NotFoundError
from embedmill.sources.audit_kinds import Finding, Findings

_SQL = load_queries("embedmill.sources", "audits.sql")

Mends = Literal["nothing", "books", "all"]
"""What an audit sets right: nothing; only what is bookkeeping (no vector, no document, no money); everything."""
Carrier = Literal["worker", "command"]


class AuditLostError(Exception):
    """Somebody else carries this audit out now, or it was removed."""


class Scope(msgspec.Struct, frozen=True):
    """What is looked at: all of a tenant, one pipeline, or one source of records."""

    tenant_id: int
    pipeline_id: int | None = None
    record_source_id: int | None = None


class AuditRecord(msgspec.Struct, frozen=True):
    """An audit as it stands in the database. `looked`: documents, rows and vectors that were looked at so far."""

    id: int
    scope: Scope
    pipeline: str | None
    source: str | None
    started_at: datetime
    ended_at: datetime | None
    is_repair: bool
    mends: Mends
    findings: list[Finding]
    done_steps: list[str]
    step: str | None
    cursor: Any
    looked: int
    actor: str


async def find_scope(
    database: Database, tenant_id: int, *, pipeline: str | None = None, source: str | None = None
) -> Scope:
    """By names. NotFoundError where there is none; ConflictError where several pipelines have a source of that name."""
    row = await database.fetch_one(
        _SQL["scope"], {"tenant_id": tenant_id, "pipeline": pipeline, "source": source}
    )
    pipelines, sources = row if row else (None, None)
    if pipeline is not None and not pipelines:
        raise NotFoundError(f"there is no pipeline {pipeline!r}: `embedmill pipeline list` shows all")
    if source is not None and not sources:
        raise NotFoundError(f"there is no source {source!r}: `embedmill table list` shows the tables")
    if source is not None and len(sources) > 1:
        raise ConflictError(f"several pipelines have a source {source!r}: name one of them as well")
    return Scope(
        tenant_id, pipelines[0] if pipeline is not None else None, sources[0] if source is not None else None
    )


async def begin_audit(database: Database, scope: Scope, *, mends: Mends, actor: str) -> HeldAudit:
    """One that whoever calls carries out: the newest of the same scope that was cut off is taken up again."""
    holder = str(uuid4())
    wanted = _columns(scope, mends) | {"holder": holder, "carrier": "command", "actor": actor}
    row = await database.fetch_one(_SQL["take"], wanted) or await database.fetch_one(_SQL["begin"], wanted)
    if row is None:
        raise AuditLostError
    return HeldAudit(database, await find_audit(database, row[0]), holder)


async def order_audit(database: Database, scope: Scope, *, mends: Mends, actor: str) -> AuditRecord:
    """One that the next worker carries out."""
    wanted = _columns(scope, mends) | {"holder": None, "carrier": "worker", "actor": actor}
    row = await database.fetch_one(_SQL["begin"], wanted)
    if row is None:
        raise AuditLostError
    return await find_audit(database, row[0])


async def take_ordered_audit(database: Database) -> HeldAudit | None:
    """An ordered or scheduled audit that nobody carries out, any tenant's."""
    holder = str(uuid4())
    wanted = _columns(Scope(0), "nothing") | {"holder": holder, "carrier": "worker"}
    row = await database.fetch_one(_SQL["take"], wanted)
    return None if row is None else HeldAudit(database, await find_audit(database, row[0]), holder)


async def order_due_audits(database: Database) -> int:
    """As `audit_interval_hours` says; how many."""
    row = await database.fetch_one(_SQL["order_due"])
    return int(row[0]) if row else 0


async def list_audits(database: Database, tenant_id: int, *, limit: int) -> list[AuditRecord]:
    """Newest first."""
    rows = await database.fetch(_SQL["audits"], {"tenant_id": tenant_id, "id": None, "limit": limit})
    return [_record(row) for row in rows]


async def find_audit(database: Database, audit_id: int) -> AuditRecord:
    row = await database.fetch_one(_SQL["audits"], {"tenant_id": None, "id": audit_id, "limit": 1})
    if row is None:
        raise NotFoundError(f"there is no audit {audit_id}")
    return _record(row)


class HeldAudit:
    """An audit that is carried out here, for a minute longer with each `save`."""

    def __init__(self, database: Database, record: AuditRecord, holder: str) -> None:
        self.record = record
        self.findings = Findings(record.findings)
        self.done_steps = list(record.done_steps)
        self.looked = record.looked
        self._database = database
        self._holder = holder

    async def save(self, step: str | None, cursor: Any, *, connection: Connection | None = None) -> None:
        """`step` is begun and has come to `cursor`. With a `connection`: committed with what is mended there. Raises
        AuditLostError where it is ours no longer."""
        values = {
            "id": self.record.id,
            "holder": self._holder,
            "findings": msgspec.json.encode(self.findings.all()).decode(),
            "progress": msgspec.json.encode(
                {"done": self.done_steps, "step": step, "cursor": cursor, "looked": self.looked}
            ).decode(),
        }
        if connection is None:
            row = await self._database.fetch_one(_SQL["save"], values)
        else:
            row = await (await connection.execute(_SQL["save"], values)).fetchone()
        if row is None:
            raise AuditLostError

    async def end(self) -> AuditRecord:
        """It is through; as it stands now."""
        if await self._database.fetch_one(_SQL["end"], self._own()) is None:
            raise AuditLostError
        return await find_audit(self._database, self.record.id)

    async def release(self) -> None:
        """It is cut off here, and goes on wherever it is taken up."""
        await self._database.fetch(_SQL["release"], self._own())

    def _own(self) -> dict[str, object]:
        return {"id": self.record.id, "holder": self._holder}


def _columns(scope: Scope, mends: Mends) -> dict[str, object]:
    return {
        "tenant_id": scope.tenant_id,
        "pipeline_id": scope.pipeline_id,
        "record_source_id": scope.record_source_id,
        "is_repair": mends == "all",
        "mends": mends,
    }


def _record(row: tuple[Any, ...]) -> AuditRecord:
    (
        audit_id, tenant_id, pipeline_id, record_source_id, pipeline, source, started_at, ended_at, is_repair, findings,
        progress, actor,
    ) = row  # fmt: skip
    said: dict[str, Any] = msgspec.json.decode(progress)
    return AuditRecord(
        id=audit_id,
        scope=Scope(tenant_id, pipeline_id, record_source_id),
        pipeline=pipeline,
        source=source,
        started_at=started_at,
        ended_at=ended_at,
        is_repair=is_repair,
        mends=said.get("mends", "all" if is_repair else "nothing"),
        findings=msgspec.json.decode(findings, type=list[Finding]),
        done_steps=said.get("done", []),
        step=said.get("step"),
        cursor=said.get("cursor"),
        looked=said.get("looked", 0),
        actor=actor,
    )
