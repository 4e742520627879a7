"""The walk of a source's backfill, one batch at a time: the next rows in the order of the key that lack their vectors.
Owns the walk and its limits; must not know who ordered it (backfill_orders.py), nor how rows are read (reading.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.sources.reading import ATTEMPTS, Look, SourceReading
from embedmill.sources.rows import WalkedKey
from embedmill.sources.saving import OutdatedError, ReadRow, Saved

_SQL = load_queries("embedmill.sources", "backfill.sql")

# Rows that have their vectors are stepped over in longer strides than others are read.
STRIDE_ROWS = 5_000
BACKFILL_PRIORITY = "low"
OUT_OF_BUDGET = "its budget is used up"
_CHUNKS_OF_AN_ITEM = 500
_MILLION = 1_000_000


def usage_type_of(source_name: str) -> str:
    """Under which a walk's calls stand in the ledger. Calls are told apart by it, and end at a blank."""
    return "backfill:" + "_".join(source_name.split())


class _Walk(msgspec.Struct, frozen=True):
    """How far it has come, and what bounds its next batch. `allowed` rows, None: its time has not come; `over`: which
    limit ended it. `budget_left` in US dollars, with what waits taken off (None: no budget); `price` of a million
    tokens in all generations."""

    after: list[str] | None
    started_at: datetime
    rereads: bool
    allowed: int | None
    over: str | None
    budget_left: Decimal | None
    has_waiting: bool
    batch_id: UUID
    price: Decimal


class _Lack(msgspec.Struct, frozen=True):
    """What a document lacks that is to be seen to."""

    chunks: int
    tokens: int


class _Batch(msgspec.Struct, frozen=True):
    """Rows that are walked past, and `left`, those of them that are still to be read; `read` were. `room` for so many
    items, `budget` in US dollars (None: no limit)."""

    walked: list[WalkedKey]
    left: list[str]
    lacking: Mapping[str, _Lack]
    room: int
    budget: Decimal | None
    read: int = 0

    def ending_before(self, keys: set[str]) -> list[WalkedKey]:
        """A shorter one: the first of these rows is the first of another."""
        at = next(n for n, each in enumerate(self.walked) if each.key in keys)
        return self.walked[:at]


class _Part(msgspec.Struct, frozen=True):
    """What of a batch is saved at once, and the batch as it is then."""

    look: Look
    rest: _Batch
    is_over_budget: bool = False


class Backfill:
    """The walk of one leased source."""

    def __init__(
        self,
        database: Database,
        reading: SourceReading,
        reader_token: int | None,
        *,
        stride_rows: int = STRIDE_ROWS,
    ) -> None:
        """Rows that have their vectors are walked past by `stride_rows` at a time."""
        self._database = database
        self._reading = reading
        self._source = reading.source
        self._usage_type = usage_type_of(reading.source.name)
        self._reader_token = reader_token
        self._most_stride_rows = stride_rows
        self._stride_rows = 0  # longer and longer while nothing is to be read

    async def step(self, max_rows: int | None = None) -> Saved | None:
        """One batch, of `max_rows` at the most; None where no walk runs, its time has not come, enough waits already
        or the lease is over."""
        walk = await self._look_where()
        if walk is None:
            return None
        room = await self._reading.room()
        most = min(walk.allowed or 0, room, room if max_rows is None else max_rows)
        if walk.over is not None or not most:
            await self._end_where(walk, walk.over)
            return None
        if walk.budget_left is not None and walk.budget_left <= 0:
            await self._end_without_budget(walk)
            return None
        batch = await self._next(walk, most, room)
        if not batch.walked:
            await self._end_where(walk, "done")
            return None
        return await self._read(walk, batch)

    async def _look_where(self) -> _Walk | None:
        row = await self._database.fetch_one(
            _SQL["running"], {"record_source_id": self._source.id, "usage_type": self._usage_type}
        )
        return None if row is None else _Walk(*row)

    async def _end_where(self, walk: _Walk, reason: str | None) -> None:
        """The walk is over, if there is a reason: `done`, or which limit ended it."""
        if reason is not None:
            values = {"record_source_id": self._source.id, "started_at": walk.started_at, "reason": reason}
            await self._database.fetch(_SQL["end"], values)

    async def _end_without_budget(self, walk: _Walk) -> None:
        """Nothing more can be paid for; what waits may turn out to cost less, and is waited for."""
        if not walk.has_waiting:
            await self._end_where(walk, OUT_OF_BUDGET)

    async def _next(self, walk: _Walk, most: int, room: int) -> _Batch:
        """The rows that are walked past, and those of them that are to be read: at most so many."""
        limit = most if walk.rereads else max(most, min(self._stride_rows, self._most_stride_rows))
        walked = await self._reading.rows.walk(walk.after, limit)
        keys = [each.key for each in walked]
        lacking = await self._lacking(keys)
        if walk.rereads:
            return _Batch(walked, keys, lacking, room, walk.budget_left)
        known = await self._reading.saving.standing(keys)
        new = [key for key in keys if key not in known]
        wanted = await self._reading.rows.wanted(new)
        chosen = [at for at, each in enumerate(walked) if each.key in lacking or each.key in wanted]
        self._stride_rows = 2 * len(walked) if len(chosen) < most // 2 else 0
        if len(chosen) > most:
            walked = walked[: chosen[most]]
        left = [walked[at].key for at in chosen[:most]]
        return _Batch(walked, left, lacking, room, walk.budget_left)

    async def _lacking(self, keys: Sequence[str]) -> dict[str, _Lack]:
        rows = await self._database.fetch(
            _SQL["lacking"],
            {
                "generation_id": self._reading.pipeline.generation.id,
                "source_type": self._source.name,
                "keys": list(keys),
            },
        )
        return {key: _Lack(chunks, tokens) for key, chunks, tokens in rows}

    async def _read(self, walk: _Walk, batch: _Batch) -> Saved | None:
        """Read and save the batch, in as many parts as its size asks for; the walk goes on with the last of them."""
        saved = Saved()
        while True:
            done = await self._save(walk, batch)
            if done is None:
                return None
            part, batch = done
            saved += part
            if not batch.left:
                return saved

    async def _save(self, walk: _Walk, batch: _Batch) -> tuple[Saved, _Batch] | None:
        """Save a part of the batch; None where the lease is over, others keep changing it, or nothing of it has room
        or budget."""
        for _ in range(ATTEMPTS):
            part = self._fit(walk, batch, await self._reading.look(batch.left))
            if not part.rest.walked:
                if part.is_over_budget:
                    await self._end_without_budget(walk)
                return None
            with contextlib.suppress(OutdatedError):
                saved = await self._commit(walk, part)
                return None if saved is None else (saved, part.rest)
        return None

    async def _commit(self, walk: _Walk, part: _Part) -> Saved | None:
        async with self._database.transaction() as connection:
            if not await self._reading.saving.hold(connection, self._reader_token):
                return None
            if not part.rest.left and not await self._advance(connection, walk, part.rest):
                return None
            if not part.look.keys:
                return Saved()
            reading = await self._reading.of_this_moment(connection, part.look)
            await self._resolve_letters(
                connection, [key for key in part.look.keys if key in part.rest.lacking]
            )
            return await self._reading.saving.save(
                connection,
                reading,
                priority=BACKFILL_PRIORITY,
                usage_type=self._usage_type,
                batch_id=walk.batch_id,
                adopts=True,
            )

    def _fit(self, walk: _Walk, batch: _Batch, look: Look) -> _Part:
        """Of what was looked at, the rows for which there is room in the queue and budget; the batch ends before the
        first for which there is not."""
        rows = {read.row.key: read for read in look.reading.rows}
        room, budget = batch.room, batch.budget
        fit: list[str] = []
        for key in look.keys:
            items, cost = _costs(rows.get(key), batch.lacking.get(key), walk.price)
            is_over_budget = budget is not None and cost > budget
            # The largest row must go at some time: when nothing else waits.
            has_no_room = items > room and room < self._reading.window_items
            if is_over_budget or has_no_room:
                rest = msgspec.structs.replace(
                    batch, walked=batch.ending_before({key, *look.left}), left=[], read=batch.read + len(fit)
                )
                return _Part(_narrowed(look, fit), rest, is_over_budget)
            room -= items
            budget = None if budget is None else budget - cost
            fit.append(key)
        rest = msgspec.structs.replace(
            batch, left=look.left, room=room, budget=budget, read=batch.read + len(fit)
        )
        return _Part(look, rest)

    async def _resolve_letters(self, connection: Connection, keys: list[str]) -> None:
        if keys:
            await connection.execute(
                _SQL["resolve_letters"],
                {
                    "tenant_id": self._source.tenant_id,
                    "pipeline_id": self._source.pipeline_id,
                    "source_type": self._source.name,
                    "keys": keys,
                },
            )

    async def _advance(self, connection: Connection, walk: _Walk, batch: _Batch) -> bool:
        """The walk comes so far with this transaction; False where it was stopped or begun anew."""
        cursor = await connection.execute(
            _SQL["advance"],
            {
                "record_source_id": self._source.id,
                "started_at": walk.started_at,
                "before": walk.after,
                "after": list(batch.walked[-1].columns),
                "walked": len(batch.walked),
                "read": batch.read,
            },
        )
        return await cursor.fetchone() is not None


def _costs(read: ReadRow | None, lack: _Lack | None, price: Decimal) -> tuple[int, Decimal]:
    """How many items a row may make wait, and what its calls may cost, in US dollars."""
    chunks, tokens = 0, 0
    if read is not None and read.cut is not None:
        chunks, tokens = len(read.cut.chunks), sum(chunk.tokens for chunk in read.cut.chunks)
    elif read is not None and read.is_unchanged and lack is not None:
        chunks, tokens = lack.chunks, lack.tokens
    return -(-chunks // _CHUNKS_OF_AN_ITEM), tokens * price / _MILLION


def _narrowed(look: Look, keys: Sequence[str]) -> Look:
    """These rows only, and nothing left: the others are another batch's."""
    kept = set(keys)
    reading = look.reading
    return Look(
        msgspec.structs.replace(
            reading,
            rows=[read for read in reading.rows if read.row.key in kept],
            standing={key: each for key, each in reading.standing.items() if key in kept},
            gone=[key for key in reading.gone if key in kept],
        ),
        list(keys),
        [],
        {key: version for key, version in look.versions.items() if key in kept},
    )
