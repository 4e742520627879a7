"""What a run has achieved, read from the database: other workers may have done part of it. Owns the reading of
job sums and of the ledger; writes nothing."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.ingest", "ingest.sql")


class BatchProgress(msgspec.Struct, frozen=True):
    """The jobs of one run, summed; `live_jobs` have not ended yet."""

    live_jobs: int
    total_chunks: int
    embedded_chunks: int
    reused_chunks: int
    failed_chunks: int
    total_tokens: int


class Spent(msgspec.Struct, frozen=True):
    """What the calls of one worker cost, failed ones included; `cost_usd` None where a price is unknown."""

    calls: int
    inputs: int
    tokens: int
    cost_usd: Decimal | None


class Coverage(msgspec.Struct, frozen=True):
    """Embedded over embeddable, with what is not embeddable counted apart."""

    chunks: int
    embedded: int
    unembeddable: int

    @property
    def percent(self) -> float:
        """100.0 exactly when every embeddable chunk has its vector (nothing to embed counts as covered)."""
        embeddable = self.chunks - self.unembeddable
        return 100.0 if self.embedded >= embeddable else min(99.9, 100.0 * self.embedded / embeddable)


class EmbeddingFailure(msgspec.Struct, frozen=True):
    """A document whose embedding failed, or `failed_chunks` of whose passages the provider refuses."""

    path: str
    job_status: str
    failed_chunks: int
    message: str | None


async def batch_progress(database: Database, batch_id: UUID) -> BatchProgress:
    row = await database.fetch_one(_SQL["batch_progress"], {"batch_id": batch_id})
    return BatchProgress(*row) if row else BatchProgress(0, 0, 0, 0, 0, 0)


async def batch_failures(database: Database, batch_id: UUID) -> list[EmbeddingFailure]:
    rows = await database.fetch(_SQL["batch_failures"], {"batch_id": batch_id})
    return [EmbeddingFailure(*row) for row in rows]


async def spent_by(database: Database, tenant_id: int, worker_id: UUID) -> Spent:
    row = await database.fetch_one(_SQL["batch_spent"], {"tenant_id": tenant_id, "worker_id": worker_id})
    calls, inputs, tokens, cost, has_unknown = row or (0, 0, 0, None, False)
    return Spent(calls, inputs, tokens, None if has_unknown else (cost or Decimal(0)))


async def coverage(database: Database, generation_id: int) -> Coverage:
    row = await database.fetch_one(_SQL["coverage"], {"generation_id": generation_id})
    return Coverage(*row) if row else Coverage(0, 0, 0)


async def waits_for_budget(database: Database, batch_id: UUID) -> bool:
    """Whether all that is left of a run waits until a budget is raised, or a month begins."""
    row = await database.fetch_one(_SQL["waits_for_budget"], {"batch_id": batch_id})
    return bool(row and row[0])


async def is_settled(database: Database, batch_id: UUID) -> bool:
    """Whether nothing of a run is under way any more."""
    row = await database.fetch_one(_SQL["is_settled"], {"batch_id": batch_id})
    return bool(row and row[0])
