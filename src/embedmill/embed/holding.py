"""What a worker holds: claimed items, and how much of each is still to do. Owns the bookkeeping in memory;
the truth is the database's, and whatever stands here may be lost at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from functools import partial

from embedmill.core.batching import Target
from embedmill.database.patience import patiently
from embedmill.database.pool import Database
from embedmill.queue.items import Item, Return, hold_items


class HeldItem:
    """A claimed item: `chunks` that lacked a vector when it was claimed, of which `waiting` still do and calls in
    flight will write some.

    An item goes back only when no call of its own is in flight, or what that call was paid for would be
    fenced off. Until then the `verdict` waits.
    """

    def __init__(self, item: Item, chunks: Collection[int]) -> None:
        self.item = item
        self.chunks = frozenset(chunks)
        self.waiting = len(self.chunks)
        self.calls_in_flight = 0
        self.verdict: Return | None = None


class Holdings:
    """All items that one embedder holds, by id."""

    def __init__(self) -> None:
        self._held: dict[int, HeldItem] = {}
        # Something was given back of which a call that is not sent yet may still carry a part.
        self.has_let_go = False

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, item_id: int) -> bool:
        return item_id in self._held

    def take(self, item: Item, chunks: Collection[int]) -> None:
        """Hold an item anew, for these chunks. Whatever was held of it under an older lease is void."""
        self._held[item.id] = HeldItem(item, chunks)

    def wants(self, target: Target) -> bool:
        """Whether a vector is still wanted there. A call that set off under an older lease may bring some for chunks
        that another content of the document has replaced: the new lease does not cover them."""
        held = self._held.get(target.item_id)
        return held is not None and target.chunk_id in held.chunks

    def get(self, item_id: int) -> HeldItem | None:
        return self._held.get(item_id)

    def items(self, item_ids: Iterable[int]) -> list[Item]:
        """Those of the ids that are still held, in order of id."""
        return [self._held[item_id].item for item_id in sorted(set(item_ids)) if item_id in self._held]

    def all(self) -> list[HeldItem]:
        return list(self._held.values())

    def depart(self, item_ids: Iterable[int]) -> list[HeldItem]:
        """A call sets off with chunks of these items; returns those of them that are held."""
        passengers = [self._held[item_id] for item_id in set(item_ids) if item_id in self._held]
        for held in passengers:
            held.calls_in_flight += 1
        return passengers

    def arrive(self, passengers: Iterable[HeldItem]) -> list[HeldItem]:
        """The call is over. Returns the items that have a verdict and nothing more in flight."""
        due = []
        for held in passengers:
            held.calls_in_flight -= 1
            is_current = self._held.get(held.item.id) is held
            if is_current and held.verdict is not None and held.calls_in_flight == 0:
                due.append(held)
        return due

    def forget(self, items: Iterable[Item]) -> None:
        """Let go of these leases; an item that was claimed again meanwhile is held on to."""
        for item in items:
            held = self._held.get(item.id)
            if held is not None and held.item.lease_token == item.lease_token:
                del self._held[item.id]


class LeaseWatch:
    """Whether what we hold is still ours, as far as can be told without asking. Others take over after two
    heartbeat intervals without a beat; after one and a half we begin to doubt.

    Not the age of the heartbeat alone: a process that wakes up from a freeze beats before it looks. While the
    trust given last time has not run out, no such gap can have been.
    """

    def __init__(
        self,
        *,
        lease_age: Callable[[], float],
        heartbeat_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease_age = lease_age
        self._trusted_seconds = 1.5 * heartbeat_seconds
        self._clock = clock
        self._trusted_until = self._next_end()

    def are_doubtful(self) -> bool:
        """Ask before each call; each time that it says no, the trust is renewed."""
        if self._clock() >= self._trusted_until:
            return True
        self._trusted_until = max(self._trusted_until, self._next_end())
        return False

    async def confirm(self, database: Database, holdings: Holdings) -> set[int]:
        """Ask the database, and forget what was lost; returns the ids of that."""
        asked_at = self._next_end()
        items = [held.item for held in holdings.all()]
        held = await patiently(partial(_still_held, database, items))
        lost = [item for item in items if item.id not in held]
        holdings.forget(lost)
        self._trusted_until = asked_at
        return {item.id for item in lost}

    def _next_end(self) -> float:
        return self._clock() + self._trusted_seconds - self._lease_age()


async def _still_held(database: Database, items: list[Item]) -> set[int]:
    async with database.transaction() as connection:
        return await hold_items(connection, items)
