"""The walk of a source's backfill, one batch at a time: the next rows in the order of the key that lack their vectors.
While a batch is saved, the next one is looked at. Owns the walk and its limits; must not know who ordered it
(backfill_orders.py), nor how rows are read (reading.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec
import psycopg

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import EmbedmillError
from embedmill.sources.backfill_batches import Ahead, Batch, Lack, Part, Walk, fitting
from embedmill.sources.beside import beside
from embedmill.sources.reading import ATTEMPTS, Look, SourceReading
from embedmill.sources.saving import OutdatedError, Saved

_SQL = load_queries("embedmill.sources", "backfill.sql")

# Rows that have their vectors are stepped over in longer strides than others are read.
STRIDE_ROWS = 5_000
BACKFILL_PRIORITY = "low"
OUT_OF_BUDGET = "its budget is used up"


def usage_type_of(source_name: str) -> str:
    """Under which a walk's calls stand in the ledger. Calls are told apart by it, and end at a blank."""
    return "backfill:" + "_".join(source_name.split())


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
        self._ahead: Ahead | None = None  # for the next step, or for nobody

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
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.serves(walk, most):
            batch = msgspec.structs.replace(ahead.batch, room=room, budget=walk.budget_left)
            return await self._read(walk, batch, most, ahead.look)
        batch = await self._next(walk, most, room)
        if not batch.walked:
            await self._end_where(walk, "done")
            return None
        return await self._read(walk, batch, most)

    async def _look_where(self) -> Walk | None:
        row = await self._database.fetch_one(
            _SQL["running"], {"record_source_id": self._source.id, "usage_type": self._usage_type}
        )
        return None if row is None else Walk(*row)

    async def _end_where(self, walk: Walk, reason: str | None) -> None:
        """The walk is over, if there is a reason: `done`, or which limit ended it."""
        if reason is not None:
            values = {"record_source_id": self._source.id, "started_at": walk.started_at, "reason": reason}
            await self._database.fetch(_SQL["end"], values)

    async def _end_without_budget(self, walk: Walk) -> None:
        """Nothing more can be paid for; what waits may turn out to cost less, and is waited for."""
        if not walk.has_waiting:
            await self._end_where(walk, OUT_OF_BUDGET)

    async def _next(self, walk: Walk, most: int, room: int) -> Batch:
        """The rows that are walked past, and those of them that are to be read: at most so many."""
        limit = most if walk.rereads else max(most, min(self._stride_rows, self._most_stride_rows))
        walked = await self._reading.rows.walk(walk.after, limit)
        keys = [each.key for each in walked]
        lacking = await self._lacking(keys)
        if walk.rereads:
            return Batch(walked, keys, lacking, room, walk.budget_left)
        known = await self._reading.saving.standing(keys)
        new = [key for key in keys if key not in known]
        wanted = await self._reading.rows.wanted(new)
        chosen = [at for at, each in enumerate(walked) if each.key in lacking or each.key in wanted]
        self._stride_rows = 2 * len(walked) if len(chosen) < most // 2 else 0
        if len(chosen) > most:
            walked = walked[: chosen[most]]
        left = [walked[at].key for at in chosen[:most]]
        return Batch(walked, left, lacking, room, walk.budget_left)

    async def _lacking(self, keys: Sequence[str]) -> dict[str, Lack]:
        rows = await self._database.fetch(
            _SQL["lacking"],
            {
                "generation_id": self._reading.pipeline.generation.id,
                "source_type": self._source.name,
                "keys": list(keys),
            },
        )
        return {key: Lack(chunks, tokens) for key, chunks, tokens in rows}

    async def _read(self, walk: Walk, batch: Batch, most: int, look: Look | None = None) -> Saved | None:
        """Read and save the batch, in as many parts as its size asks for; the walk goes on with the last of them. There
        may be a `look` at the first."""
        saved = Saved()
        while True:
            done = await self._save(walk, batch, most, look)
            if done is None:
                return None
            part, batch = done
            saved += part
            if not batch.left:
                return saved
            look = None

    async def _save(
        self, walk: Walk, batch: Batch, most: int, look: Look | None
    ) -> tuple[Saved, Batch] | None:
        """Save a part of the batch; None where the lease is over, others keep changing it, or nothing of it has room
        or budget."""
        for _ in range(ATTEMPTS):
            look = look or await self._reading.look(batch.left)
            part = fitting(walk, batch, look, self._reading.window_items)
            if not part.rest.walked:
                if part.is_over_budget:
                    await self._end_without_budget(walk)
                return None
            with contextlib.suppress(OutdatedError):
                async with beside(self._look_ahead(walk, part, most)):
                    saved = await self._commit(walk, part)
                return None if saved is None else (saved, part.rest)
            look = None
        return None

    async def _look_ahead(self, walk: Walk, part: Part, most: int) -> None:
        """Load and cut what comes after this part, unless the walk will wait before that. What changes meanwhile is
        found out when it is saved, as after any look; what fails here fails again in its turn, and is told."""
        if walk.is_paced or part.rest.left or part.rest.room < most:
            return
        walk = msgspec.structs.replace(walk, after=list(part.rest.walked[-1].columns))
        with contextlib.suppress(psycopg.Error, EmbedmillError):
            batch = await self._next(walk, most, part.rest.room)
            if batch.walked:
                self._ahead = Ahead(walk, batch, await self._reading.look(batch.left))

    async def _commit(self, walk: Walk, part: Part) -> Saved | None:
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

    async def _advance(self, connection: Connection, walk: Walk, batch: Batch) -> bool:
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
