"""What a write to the database is made of and what it changed. Owns the values only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from embedmill.core.batching import Target
from embedmill.queue.items import Item


class Reservation(msgspec.Struct, frozen=True):
    """What a call has reserved in budgets: `tokens` in all, at the most, and each job's part of them."""

    call_id: UUID
    tokens: int
    jobs: list[UUID]
    job_tokens: list[int]


class Call(msgspec.Struct, frozen=True):
    """One call to a provider as the ledger knows it; `id` makes writing it twice harmless."""

    id: UUID
    worker_id: UUID
    usage_type: str
    inputs: int
    tokens: int
    latency_ms: int
    error: str | None = None
    reservation: Reservation | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What a write changed: vectors written, items that ended, items that were not ours any more, and items
    that should have ended but miss a vector. `cancelled` are ours, and somebody wants them to stop."""

    vectors: int
    completed: list[Item]
    lost: list[Item]
    incomplete: list[Item]
    cancelled: list[Item] = []

    @classmethod
    def of(
        cls,
        vectors: int,
        items: Sequence[Item],
        held: Collection[int],
        ending: Sequence[int],
        completed: set[int],
        cancelled: Collection[int] = (),
    ) -> Outcome:
        """From the items of a write: those that were `held`, should be `ending`, and are `completed`; of the others
        those that are to stop."""
        return cls(
            vectors=vectors,
            completed=[item for item in items if item.id in completed],
            lost=[item for item in items if item.id not in held],
            incomplete=[item for item in items if item.id in ending and item.id not in completed],
            cancelled=[item for item in items if item.id in cancelled and item.id not in completed],
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
