"""Fills the packer: claims items, loads their chunks, serves what can be reused. Owns the step from item to
unit; must not call a provider."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from embedmill.core.batching import Packer, Target, Unit
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.embed.holding import Holdings
from embedmill.embed.persistence import Persistence
from embedmill.embed.results import Donor, Outcome
from embedmill.embed.traffic import Traffic
from embedmill.ports import SILENT, Telemetry
from embedmill.queue.items import Item, claim_items, delete_claimed_documents

_SQL = load_queries("embedmill.embed", "embed.sql")


class Allowance:
    """How many items may still be claimed, by all who share it: of whoever does so much and no more."""

    def __init__(self, items: int) -> None:
        self.left = items


class Loader:
    """Turns claims into units for the packer."""

    def __init__(
        self,
        database: Database,
        pipeline: Pipeline,
        persistence: Persistence,
        *,
        worker_id: UUID,
        traffic: Traffic,
        batch_size: int,
        lease_seconds: float,
        on_budget: Callable[[bool], None] = lambda has_budget: None,
        allowance: Allowance | None = None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """A claim brings at most `batch_size` items: it is a transaction and a load. `on_budget` is told with each
        load whether the tenant has any budget. No more is claimed than the `allowance` allows."""
        self._allowance = allowance
        self._telemetry = telemetry
        self._database = database
        self._generation_id = pipeline.generation.id
        self._tenant_id = pipeline.tenant_id
        self._on_budget = on_budget
        self._persistence = persistence
        self._worker_id = worker_id
        self._batch_size = batch_size
        self._lease_seconds = lease_seconds
        self._traffic = traffic

    async def load_more(self, packer: Packer, holdings: Holdings) -> list[Outcome] | None:
        """Claim and load about as much as the next call lacks; returns what ended without a call, None where
        nothing was ready."""
        inputs, tokens = packer.room
        most = min(self._batch_size, inputs)
        if self._allowance is not None:
            most = min(most, self._allowance.left)
            if most <= 0:
                return None
            self._allowance.left -= most  # before the claim: others of its sharers claim meanwhile
        started = time.perf_counter()
        items = await claim_items(
            self._database,
            self._worker_id,
            self._generation_id,
            max_items=most,
            max_chunks=inputs,
            max_tokens=tokens,
            lease_seconds=self._lease_seconds,
        )
        self._telemetry.claimed(items=len(items), seconds=time.perf_counter() - started)
        if self._allowance is not None:
            self._allowance.left += most - len(items)
        if not items:
            return None
        try:
            return await self.load(items, packer, holdings)
        except BaseException:
            holdings.forget(
                items
            )  # half loaded: better claimed again than held without anybody at work on it
            raise

    async def return_strays(self, holdings: Holdings) -> None:
        """Give back what a claim has brought whose answer was lost."""
        await self._database.fetch(
            _SQL["return_stray_items"],
            {
                "worker_id": self._worker_id,
                "generation_id": self._generation_id,
                "known": [held.item.id for held in holdings.all()],
            },
        )

    async def load(self, items: list[Item], packer: Packer, holdings: Holdings) -> list[Outcome]:
        """Take claimed items in hand. One that is in hand already was lost and claimed again: it begins anew."""
        packer.drop_items(item.id for item in items if item.id in holdings)
        outcomes: list[Outcome] = []
        deletions = [item for item in items if item.operation == "DELETE"]
        if deletions:
            items = [item for item in items if item.operation != "DELETE"]
            outcomes.append(await self._delete(deletions))
        rows = await self._database.fetch(
            _SQL["load_chunks"],
            {
                "generation_id": self._generation_id,
                "tenant_id": self._tenant_id,
                "item_ids": [item.id for item in items],
            },
        )
        if rows:
            self._on_budget(rows[0][5])
        chunks = [_Wanted(Target(row[0], row[1]), row[2], row[3], row[4]) for row in rows]
        lacking: dict[int, list[int]] = defaultdict(list)
        for chunk in chunks:
            lacking[chunk.target.item_id].append(chunk.target.chunk_id)
        for item in items:
            holdings.take(item, lacking[item.id])

        empty = [item for item in items if not lacking[item.id]]
        if empty:
            outcomes.append(await self._persistence.complete_empty(empty, holdings))
        # First to the calls that carry the same text already: none takes off while we load, so what has not
        # boarded is either landing, and waited for, or for the database to say.
        groups = {item.id: _group_of(item) for item in items}
        left = [chunk for chunk in chunks if not self._traffic.board(chunk.unit(groups), holdings)]
        donors = await self._find_donors(left)
        reusable = [(c.target, donors[c.content_hash]) for c in left if c.content_hash in donors]
        served: set[Target] = set()
        if reusable:
            served, outcome = await self._persistence.reuse_vectors(reusable, holdings)
            outcomes.append(outcome)
        for chunk in left:
            if chunk.target not in served:
                packer.add(chunk.unit(groups))
        return outcomes

    async def _delete(self, items: list[Item]) -> Outcome:
        """The documents of these items go, with all that was made of them."""
        done = await delete_claimed_documents(self._database, items)
        return Outcome.of(0, items, done, sorted(done), done)

    async def _find_donors(self, chunks: Sequence[_Wanted]) -> dict[bytes, Donor]:
        """For each text that has a vector already, a chunk to copy it from."""
        wanted = {chunk.content_hash for chunk in chunks}
        if not wanted:
            return {}
        await self._traffic.landed(wanted)
        rows = await self._database.fetch(
            _SQL["find_donors"],
            {
                "generation_id": self._generation_id,
                "content_hashes": list(wanted),
            },
        )
        # This generation comes first in the answer: its own vectors are preferred.
        return {bytes(row[0]): Donor(row[1], row[2]) for row in reversed(rows)}


class _Wanted(NamedTuple):
    """A chunk that needs its vector."""

    target: Target
    tokens: int
    content_hash: bytes
    text: str

    def unit(self, groups: dict[int, str]) -> Unit:
        return Unit(self.content_hash, self.text, self.tokens, groups[self.target.item_id], [self.target])


def _group_of(item: Item) -> str:
    """An item that failed before may hold the poison: it no longer shares calls with its neighbours."""
    return item.usage_type if item.retry_count == 0 else f"{item.usage_type} {item.id}"
