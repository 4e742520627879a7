"""How complete the vectors are, what was done in each minute, and what a call to process the queue did."""

from __future__ import annotations

from typing import Literal, TypeAlias

from embedmill.client.records.base import Moment, Record

SourceKind: TypeAlias = Literal["table", "shards", "uploads"]
Binding: TypeAlias = Literal[
    "none", "paused", "trouble", "quota", "backfill", "budget", "embedding", "reading", "failed", "nobody"
]


class SourceCoverage(Record, frozen=True):
    """One source of records (a table, a shard type), or what was uploaded to a pipeline. `unembeddable` counts by
    reason. `percent` is of what can be embedded, and 100 only if nothing is missing; `binds` says what the rest waits
    for, `eta_seconds` how long by that (None: nothing moves)."""

    pipeline: str
    kind: SourceKind
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
    binds: Binding
    trouble: str | None


class CoverageReport(Record, frozen=True):
    """Every source, and all of them together."""

    percent: float
    sources: tuple[SourceCoverage, ...]


class MinuteActivity(Record, frozen=True):
    """Chunks of one source that were embedded, or refused for good, in one minute."""

    minute: Moment
    pipeline: str
    source: str | None
    embedded: int
    unembeddable: int


class ActivityReport(Record, frozen=True):
    """Oldest first; minutes in which nothing was done are left out."""

    minutes: int
    activity: tuple[MinuteActivity, ...]


class ProcessAnswer(Record, frozen=True):
    """What was done. `processed` items ended well, `failed` for good; `remaining` chunks and rows still lack their
    vectors; `coverage` is in per cent; `notes` say what kept it from doing more."""

    processed: int
    failed: int
    embedded_chunks: int
    reused_chunks: int
    refused_chunks: int
    tokens: int
    rows_read: int
    rows_refused: int
    remaining: int
    coverage: float
    notes: tuple[str, ...]
