"""What the generations of a pipeline are at: live, being built, kept. Owns the reading of it; must not change any."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

from embedmill.core.documents import ChunkPlan
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.ports import ProviderSpec

_SQL = load_queries("embedmill.embed", "migrating.sql")


class Stage(StrEnum):
    """`built`: finished and never live; `kept`: it was live before, and is kept current for a rollback."""

    LIVE = "live"
    BUILDING = "building"
    STOPPED = "stopped"
    BUILT = "built"
    KEPT = "kept"


class Comparison(msgspec.Struct, frozen=True):
    """How far two generations agree on what is nearest: the share of the ten nearest `things` (chunks or documents)
    that they have in common, of `samples` chunks asked for by their own vectors."""

    with_number: int
    samples: int
    things: str
    median: float
    worst: float
    compared_at: datetime


class GenerationState(msgspec.Struct, frozen=True):
    """One generation. Costs in US dollars, None where a price is unknown; `failed` are dead letters that nobody has
    dealt with, `uncut` documents that are still to be cut by its plan; both counts of waiting go up to a bound."""

    id: int
    number: int
    is_live: bool
    spec: ProviderSpec
    dimensions: int
    storage: str
    chunk_set: int
    chunk_plan: ChunkPlan
    price_per_million_tokens: Decimal | None
    budget_usd: Decimal | None
    chunks: int
    embedded: int
    unembeddable: int
    waiting: int
    uncut: int
    failed: int
    walked: float
    build_started_at: datetime | None
    build_ended_at: datetime | None
    stopped_reason: str | None
    switched_at: datetime | None
    cost_usd: Decimal | None
    tokens: int
    comparison: Comparison | None

    @property
    def stage(self) -> Stage:
        if self.is_live:
            return Stage.LIVE
        if self.switched_at is not None or self.build_started_at is None:
            return Stage.KEPT
        if self.build_ended_at is not None:
            return Stage.BUILT
        return Stage.BUILDING if self.stopped_reason is None else Stage.STOPPED

    @property
    def is_unfinished(self) -> bool:
        return self.stage in (Stage.BUILDING, Stage.STOPPED)

    @property
    def coverage(self) -> float:
        """Embedded over embeddable, from 0 to 1; of a build, times how far it has walked."""
        embeddable = self.chunks - self.unembeddable
        covered = 1.0 if embeddable <= 0 else min(1.0, self.embedded / embeddable)
        # Generations of one plan share their chunks: all of them are counted from the start.
        return min(covered, self.walked) if self.is_unfinished else covered


async def count_generations(database: Database, tenant_id: int) -> dict[int, int]:
    """By pipeline."""
    return dict(await database.fetch(_SQL["count_generations"], {"tenant_id": tenant_id}))


async def list_generations(database: Database, pipeline_id: int) -> list[GenerationState]:
    """All of a pipeline, oldest first."""
    rows = await database.fetch(_SQL["generations"], {"pipeline_id": pipeline_id})
    return [
        GenerationState(
            id=row[0],
            number=row[1],
            is_live=row[2],
            spec=msgspec.json.decode(row[3], type=ProviderSpec),
            dimensions=row[4],
            storage=row[5],
            chunk_set=row[6],
            chunk_plan=ChunkPlan(row[7], row[8]),
            price_per_million_tokens=row[9],
            budget_usd=row[10],
            chunks=row[11],
            embedded=row[12],
            unembeddable=row[13],
            waiting=row[14],
            uncut=row[15],
            failed=row[16],
            walked=row[17],
            build_started_at=row[18],
            build_ended_at=row[19],
            stopped_reason=row[20],
            switched_at=row[21],
            cost_usd=row[22],
            tokens=row[23],
            comparison=None if row[24] is None else msgspec.json.decode(row[24], type=Comparison),
        )
        for row in rows
    ]
