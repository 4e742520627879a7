"""Fills the packer: claims items, loads their chunks, serves what can be reused. Owns the step from item to
unit; must not call a provider."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from embedmill.core.batching import Packer, Target, Unit
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.embed.holding import Holdings
from embedmill.embed.persistence import Outcome, Persistence
from embedmill.embed.traffic import Traffic
from embedmill.queue.items import Item, claim_items

_SQL = load_queries("embedmill.embed", "embed.sql")

# A claim is a transaction and a load: more items in one than this gain nothing.
MOST_ITEMS = 500


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
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._generation_id = pipeline.generation.id
        self._persistence = persistence
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._traffic = traffic

    async def fill(self, packer: Packer, holdings: Holdings) -> list[Outcome]:
        """Claim until a call is full or nothing is ready; returns what ended without a call."""
        outcomes: list[Outcome] = []
        while not packer.is_full:
            inputs, tokens = packer.room
            items = await claim_items(
                self._database,
                self._worker_id,
                self._generation_id,
                max_items=min(MOST_ITEMS, inputs),
                max_chunks=inputs,
                max_tokens=tokens,
                lease_seconds=self._lease_seconds,
            )
            if not items:
                break
            outcomes += await self._load(items, packer, holdings)
        return outcomes

    async def _load(self, items: list[Item], packer: Packer, holdings: Holdings) -> list[Outcome]:
        rows = await self._database.fetch(
            _SQL["load_chunks"],
            {"generation_id": self._generation_id, "item_ids": [item.id for item in items]},
        )
        await self._traffic.landed([row[3] for row in rows])
        by_item: dict[int, list[tuple[Target, int, bytes, int | None, str]]] = defaultdict(list)
        for item_id, chunk_id, tokens, content_hash, donor, text in rows:
            donor_chunk = donor if donor is not None else self._traffic.chunk_of(content_hash)
            by_item[item_id].append((Target(item_id, chunk_id), tokens, content_hash, donor_chunk, text))
        for item in items:
            holdings.take(item, waiting=len(by_item[item.id]))

        outcomes: list[Outcome] = []
        empty = [item for item in items if not by_item[item.id]]
        if empty:
            outcomes.append(await self._persistence.complete_empty(empty, holdings))
        reusable = [(row[0], row[3]) for item in items for row in by_item[item.id] if row[3] is not None]
        served: set[Target] = set()
        if reusable:
            served, outcome = await self._persistence.reuse_vectors(reusable, holdings)
            outcomes.append(outcome)

        for item in items:
            # An item that failed before may hold the poison: it no longer shares calls with its neighbours.
            group = item.usage_type if item.retry_count == 0 else f"{item.usage_type} {item.id}"
            for target, tokens, content_hash, _, text in by_item[item.id]:
                if target not in served:
                    unit = Unit(content_hash, text, tokens, group, [target])
                    if not self._traffic.board(unit, holdings):
                        packer.add(unit)
        return outcomes
