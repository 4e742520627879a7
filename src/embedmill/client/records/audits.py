"""What audits found."""

from __future__ import annotations

from typing import Literal, TypeAlias

from embedmill.client.records.base import Moment, Record

AuditMends: TypeAlias = Literal["nothing", "books", "all"]


class AuditExample(Record, frozen=True):
    """One of what was found: a row's key or what else it is known by, and what is wrong with it."""

    id: str
    source: str | None
    document_id: int | None
    detail: str | None


class AuditFinding(Record, frozen=True):
    """All that was found of one kind, and how many of these were set right."""

    kind: str
    count: int
    mended: int
    examples: tuple[AuditExample, ...]


class Audit(Record, frozen=True):
    """An audit. While `ended_at` is None it waits or is under way."""

    audit_id: int
    pipeline: str | None
    source: str | None
    mends: AuditMends
    started_at: Moment
    ended_at: Moment | None
    looked: int
    actor: str
    findings: tuple[AuditFinding, ...]


class AuditList(Record, frozen=True):
    audits: tuple[Audit, ...]
