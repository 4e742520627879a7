"""Writes what a provider answered: vectors, ledger row, counters and finished items in one transaction that is
fenced by the lease tokens. Owns that transaction; must not call a provider.

Order of locks, here and everywhere: queue items, vectors, jobs, counters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg

from embedmill.core.batching import Target, Unit
from embedmill.core.hashing import text_hash
from embedmill.core.pricing import apportion
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.embed.books import Books
from embedmill.embed.columns import store_vectors
from embedmill.embed.holding import Holdings
from embedmill.embed.results import Call, Donor, Outcome, Written
from embedmill.embed.vector_copy import encode_vectors
from embedmill.ports import Vectors
from embedmill.queue.items import Item, complete_items

_SQL = load_queries("embedmill.embed", "embed.sql")

Held = dict[int, bool]
"""The items of a write that are still ours, and for each whether somebody wants it to stop."""


class Persistence:
    """Commits the results of one pipeline's generation."""

    def __init__(self, database: Database, pipeline: Pipeline, *, lease_seconds: float) -> None:
        self._database = database
        self._pipeline = pipeline
        self._generation = pipeline.generation
        self._books = Books(pipeline)
        self._lease_seconds = lease_seconds
        self._vectors = vectors_table(self._generation.id)

    async def write_response(
        self, call: Call, units: Sequence[Unit], vectors: Vectors, holdings: Holdings
    ) -> Outcome:
        """Commit a response: `vectors[i]` goes to every target of `units[i]` whose item is still held.

        The ledger row is written even where all items were lost: the money is spent. May be repeated after
        any failure of the connection; a call that was committed is not written again.
        """
        skip: set[int] = set()
        while True:
            try:
                return await self._write_response(call, units, vectors, holdings, skip)
            except psycopg.errors.UniqueViolation:
                # Somebody else wrote some of these vectors: theirs stand, ours are spared.
                chunk_ids = [target.chunk_id for unit in units for target in unit.targets]
                rows = await self._database.fetch(
                    _SQL["standing_vectors"].format(vectors=self._vectors), {"chunk_ids": chunk_ids}
                )
                found = {row[0] for row in rows}
                if found <= skip:
                    raise
                skip |= found

    async def _write_response(
        self, call: Call, units: Sequence[Unit], vectors: Vectors, holdings: Holdings, skip: set[int]
    ) -> Outcome:
        items = holdings.items(target.item_id for unit in units for target in unit.targets)
        async with self._counted(holdings) as (connection, done):
            held = await self._hold(connection, items)
            is_recorded, into_columns = await self._look_up(connection, call)
            if is_recorded:
                return await self._resume(connection, units, items, held, holdings, done)
            written, hashes, rows = self._select_targets(call, units, held, skip, holdings)
            if written.ours:
                chunk_ids = [target.chunk_id for target in written.ours]
                documents = {item.id: item.document_id for item in items}
                document_ids = [documents[target.item_id] for target in written.ours]
                pieces = encode_vectors(
                    chunk_ids, document_ids, hashes, vectors, rows, self._generation.storage
                )
                await store_vectors(connection, self._generation.id, pieces, into_columns=into_columns)
            await self._books.record_usage(connection, call, {item.job_id for item in items})
            outcome = await self._settle(connection, items, held, written, holdings, done)
            await self._books.settle_budget(connection, call)
            return outcome

    async def reuse_vectors(
        self, wanted: Sequence[tuple[Target, Donor]], holdings: Holdings
    ) -> tuple[set[Target], Outcome]:
        """Copy vectors of equal texts: `wanted` pairs a target with the chunk to copy from.

        Returns the targets that were served; the others' donors have gone and they must be embedded.
        """
        items = holdings.items(target.item_id for target, _ in wanted)
        async with self._counted(holdings) as (connection, done):
            held = await self._hold(connection, items)
            by_generation: dict[int, list[tuple[Target, Donor]]] = defaultdict(list)
            for target, donor in wanted:
                if target.item_id in held:
                    by_generation[donor.generation_id].append((target, donor))
            served: list[Target] = []
            for generation_id, pairs in by_generation.items():
                cursor = await connection.execute(
                    _SQL["donate_vectors"],
                    {
                        "generation_id": self._generation.id,
                        "donor_generation_id": generation_id,
                        "chunk_ids": [target.chunk_id for target, _ in pairs],
                        "donors": [donor.chunk_id for _, donor in pairs],
                    },
                )
                copied = {row[0] for row in await cursor.fetchall()}
                served += [target for target, _ in pairs if target.chunk_id in copied]
            written = Written(served, [0] * len(served), served)
            outcome = await self._settle(connection, items, held, written, holdings, done, reused=True)
        return set(served), outcome

    async def bury_chunks(self, unit: Unit, reason: str, message: str, holdings: Holdings) -> Outcome:
        """Dead-letter every chunk of a text that the provider refuses; their items go on without them."""
        items = holdings.items(target.item_id for target in unit.targets)
        async with self._counted(holdings) as (connection, done):
            held = await self._hold(connection, items)
            targets = [target for target in dict.fromkeys(unit.targets) if holdings.wants(target)]
            buried = [target for target in targets if target.item_id in held]
            cursor = await connection.execute(
                _SQL["bury_chunks"],
                {
                    "generation_id": self._generation.id,
                    "item_ids": [target.item_id for target in buried],
                    "chunk_ids": [target.chunk_id for target in buried],
                    "reason": reason,
                    "error_message": message,
                },
            )
            marked = {row[0] for row in await cursor.fetchall()}
            ours = [target for target in buried if target.chunk_id in marked]
            written = Written(buried, [0] * len(buried), ours)
            return await self._settle(connection, items, held, written, holdings, done, buried=True)

    async def complete_empty(self, items: Sequence[Item], holdings: Holdings) -> Outcome:
        """End items whose every chunk had its vector already when they were claimed."""
        async with self._counted(holdings) as (connection, done):
            held = await self._hold(connection, items)
            return await self._settle(connection, items, held, Written([], [], []), holdings, done)

    async def record_call(self, call: Call, items: Sequence[Item]) -> None:
        """A call that brought no vectors: the ledger says so, and what it may have cost."""
        async with self._database.transaction() as connection:
            if await self._books.record_usage(connection, call, {item.job_id for item in items}):
                await self._books.settle_budget(connection, call)

    @staticmethod
    async def _hold(connection: Connection, items: Sequence[Item]) -> Held:
        """Lock those of the items that are still ours, to the end of the transaction, and learn whose job was
        cancelled: at the cost of no query of its own."""
        cursor = await connection.execute(
            _SQL["hold_items"],
            {"item_ids": [item.id for item in items], "lease_tokens": [item.lease_token for item in items]},
        )
        return dict(await cursor.fetchall())

    async def _look_up(self, connection: Connection, call: Call) -> tuple[bool, bool]:
        """Whether a call was committed before, and whether vectors are for columns of users' tables."""
        cursor = await connection.execute(
            _SQL["is_recorded"], {"call_id": call.id, "generation_id": self._generation.id}
        )
        row = await cursor.fetchone()
        return (False, False) if row is None else (row[0], row[1])

    def _select_targets(
        self, call: Call, units: Sequence[Unit], held: Held, skip: set[int], holdings: Holdings
    ) -> tuple[Written, list[bytes], list[int]]:
        """What of the response is still wanted, and for each chunk that we write its hash and its row of the
        response; a text's share of the tokens that the provider counted is charged to its first target."""
        prefix = self._generation.spec.document_prefix
        written = Written([], [], [])
        hashes: list[bytes] = []
        rows: list[int] = []
        paid = apportion(call.tokens, [unit.tokens for unit in units])
        for row, unit in enumerate(units):
            tokens = paid[row]
            input_hash = text_hash(prefix + unit.text) if prefix else unit.content_hash
            # An item that was lost and claimed again on the way stands here twice for the same chunk.
            for target in dict.fromkeys(unit.targets):
                if target.item_id not in held or not holdings.wants(target):
                    continue
                written.targets.append(target)
                written.tokens.append(tokens)
                tokens = 0
                if target.chunk_id not in skip:
                    written.ours.append(target)
                    hashes.append(input_hash)
                    rows.append(row)
        return written, hashes, rows

    async def _settle(
        self,
        connection: Connection,
        items: Sequence[Item],
        held: Held,
        written: Written,
        holdings: Holdings,
        done: dict[int, int],
        *,
        reused: bool = False,
        buried: bool = False,
    ) -> Outcome:
        """Counters and ends, inside the transaction that holds the items.

        Calls of one item commit one after another, since each holds its row: the one that finds nothing
        left to wait for sees all the others' vectors and ends the item.
        """
        tokens: dict[int, int] = defaultdict(int)
        for target, paid in zip(written.targets, written.tokens, strict=True):
            tokens[target.item_id] += paid
        ending = self._count_down(written.targets, held, holdings, done)
        if tokens:
            await connection.execute(
                _SQL["advance_items"],
                {
                    "item_ids": list(tokens),
                    "tokens": list(tokens.values()),
                    "lease_seconds": self._lease_seconds,
                },
            )
        completed = await complete_items(connection, self._generation.id, ending) if ending else set()
        await self._books.advance_jobs(
            connection, items, written, tokens, completed, reused=reused, buried=buried
        )
        if written.ours:
            chunk_ids = [target.chunk_id for target in written.ours]
            await connection.execute(
                _SQL["count_chunks"],
                {
                    "generation_id": self._generation.id,
                    "embedded": [] if buried else chunk_ids,
                    "refused": chunk_ids if buried else [],
                },
            )
        embedded = 0 if buried else len(written.ours)
        return Outcome.of(embedded, items, held, ending, completed, _cancelled(held))

    async def _resume(
        self,
        connection: Connection,
        units: Sequence[Unit],
        items: Sequence[Item],
        held: Held,
        holdings: Holdings,
        done: dict[int, int],
    ) -> Outcome:
        """The call had been committed, only the answer to COMMIT was lost: count down and write nothing."""
        targets = [
            target
            for unit in units
            for target in unit.targets
            if target.item_id in held and holdings.wants(target)
        ]
        ending = self._count_down(targets, held, holdings, done)
        completed = await complete_items(connection, self._generation.id, ending) if ending else set()
        await self._books.advance_jobs(
            connection, items, Written([], [], []), {}, completed, reused=False, buried=False
        )
        ended = {item.id for item in items} - held.keys()
        return Outcome.of(0, items, held.keys() | ended, ending, completed | ended, _cancelled(held))

    @staticmethod
    def _count_down(
        targets: Sequence[Target], held: Held, holdings: Holdings, done: dict[int, int]
    ) -> list[int]:
        """Take the targets off their items' counts; returns the held items that wait for nothing more.

        Done while the rows are locked: calls of one item settle one after another, and the one that finds
        nothing left to wait for sees all the others' vectors.
        """
        for target in targets:
            held_item = holdings.get(target.item_id)
            if held_item is not None:
                held_item.waiting -= 1
                done[target.item_id] += 1
        return [item_id for item_id in sorted(held) if (h := holdings.get(item_id)) and h.waiting <= 0]

    @asynccontextmanager
    async def _counted(self, holdings: Holdings) -> AsyncIterator[tuple[Connection, dict[int, int]]]:
        """A transaction, and the counts taken off in it: put back should it not be committed."""
        done: dict[int, int] = defaultdict(int)
        try:
            async with self._database.transaction() as connection:
                yield connection, done
        except BaseException:
            for item_id, count in done.items():
                held_item = holdings.get(item_id)
                if held_item is not None:
                    held_item.waiting += count
            raise


def _cancelled(held: Held) -> set[int]:
    return {item_id for item_id, is_cancelled in held.items() if is_cancelled}
