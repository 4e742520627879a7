"""What the repair of an audit's findings may pay. Owns the reckoning, from counters and a few chunks' lengths: it is
told as about so much, and never as a promise."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from embedmill.database.pipelines import Pipeline, list_pipelines
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.sources.audit_kinds import KINDS, Finding
from embedmill.sources.audits import Scope
from embedmill.sources.coverage import SourceCoverage, source_coverage

_SQL = load_queries("embedmill.dashboard", "sources.sql")
_PAID = frozenset({"done_but_no_vector", "vector_of_an_older_text", "source_never_queued"})
_DELETES = frozenset({"vector_without_source", "vector_of_an_older_text"})
_MILLION = 1_000_000


class RepairEstimate(msgspec.Struct, frozen=True):
    """`books`: findings that are bookkeeping, set right for nothing; `others` change vectors; of these `paid_kinds` pay
    for about `chunks`, `tokens` and `cost_usd` (None: some price is unknown); `deletes`: vectors or documents."""

    books: int
    others: int
    paid_kinds: int
    chunks: int
    tokens: int
    cost_usd: Decimal | None
    deletes: int


async def estimate_repair(
    database: Database, tenant_id: int, scope: Scope, left: Sequence[Finding]
) -> RepairEstimate:
    """Of findings that were not mended."""
    numbers = {each.kind: each.count - each.mended for each in left}
    paid = sum(number for kind, number in numbers.items() if kind in _PAID)
    chunks, tokens, cost = 0, 0, Decimal(0) if paid else None
    if paid:
        chunks, tokens, cost = await _to_pay(database, tenant_id, scope, paid)
    return RepairEstimate(
        books=sum(number for kind, number in numbers.items() if KINDS[kind].is_bookkeeping),
        others=sum(number for kind, number in numbers.items() if not KINDS[kind].is_bookkeeping),
        paid_kinds=paid,
        chunks=chunks,
        tokens=tokens,
        cost_usd=cost,
        deletes=sum(number for kind, number in numbers.items() if kind in _DELETES),
    )


async def _to_pay(
    database: Database, tenant_id: int, scope: Scope, paid: int
) -> tuple[int, int, Decimal | None]:
    """What the scope lacks by its counters, but at least a chunk for each finding: counters are what may lie."""
    sources = await source_coverage(database, tenant_id)
    pipelines = [
        each
        for each in await list_pipelines(database, tenant_id)
        if scope.pipeline_id in (None, each.id) and any(_is_within(source, each, scope) for source in sources)
    ]
    lacking = {
        each.id: sum(_lack(source) for source in sources if _is_within(source, each, scope))
        for each in pipelines
    }
    dearest = max(pipelines, key=lambda each: each.price_per_million_tokens or Decimal(0), default=None)
    if dearest is not None:
        lacking[dearest.id] += max(paid - sum(lacking.values()), 0)
    chunks, tokens, cost = 0, 0.0, Decimal(0)
    has_price = True
    for each in pipelines:
        if not lacking[each.id]:
            continue
        here = lacking[each.id] * await tokens_of_a_chunk(database, each)
        chunks, tokens = chunks + lacking[each.id], tokens + here
        has_price = has_price and each.price_per_million_tokens is not None
        cost += Decimal(round(here)) * (each.price_per_million_tokens or Decimal(0)) / _MILLION
    return chunks, round(tokens), cost if has_price else None


def _is_within(source: SourceCoverage, pipeline: Pipeline, scope: Scope) -> bool:
    return source.pipeline == pipeline.name and scope.record_source_id in (None, source.record_source_id)


def _lack(source: SourceCoverage) -> int:
    """Chunks that are not embedded, and those of rows that were not read, by how many the others have."""
    per_row = max(source.chunks / source.documents, 1.0) if source.documents else 1.0
    return source.waiting_chunks + round(source.unread_rows * per_row)


async def tokens_of_a_chunk(database: Database, pipeline: Pipeline) -> float:
    """On the average, of chunks drawn from all over; what the plan allows where there are none."""
    asked = {"pipeline_id": pipeline.id, "chunk_set": pipeline.generation.chunk_set}
    row = await database.fetch_one(_SQL["sampled_tokens"], asked)
    return float(row[0]) if row and row[0] is not None else float(pipeline.chunk_plan.max_tokens)
