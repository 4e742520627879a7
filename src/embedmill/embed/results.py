"""What a write to the database is made of and what it changed. Owns the values only."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from embedmill.core.batching import Target
from embedmill.queue.items import Item


class Call(msgspec.Struct, frozen=True):
    """One call to a provider as the ledger knows it; `id` makes writing it twice harmless."""

    id: UUID
    worker_id: UUID
    usage_type: str
    inputs: int
    tokens: int
    latency_ms: int
    error: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What a write changed: vectors written, items that ended, items that were not ours any more, and items
    that should have ended but miss a vector."""

    vectors: int
    completed: list[Item]
    lost: list[Item]
    incomplete: list[Item]

    @classmethod
    def of(
        cls, vectors: int, items: Sequence[Item], held: set[int], ending: Sequence[int], completed: set[int]
    ) -> Outcome:
        """From the items of a write: those that were `held`, should be `ending`, and are `completed`."""
        return cls(
            vectors=vectors,
            completed=[item for item in items if item.id in completed],
            lost=[item for item in items if item.id not in held],
            incomplete=[item for item in items if item.id in ending and item.id not in completed],
        )


class Written(msgspec.Struct, frozen=True):
    """Chunks that have their vector now, or their reason: (item, chunk) and the tokens paid for them. `ours` are
    those that got it by this write: only they are counted, or what another wrote would be counted twice."""

    targets: list[Target]
    tokens: list[int]
    ours: list[Target]


class Donor(msgspec.Struct, frozen=True):
    """A chunk whose vector may be copied, and the generation in which that vector stands."""

    chunk_id: int
    generation_id: int
