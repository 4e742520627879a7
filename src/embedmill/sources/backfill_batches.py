"""What a walk's batch is, and what of it has room in the queue and budget. Owns the values that a backfill passes from
step to step; pure, must not read or write (backfill.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from embedmill.sources.reading import Look
from embedmill.sources.rows import WalkedKey
from embedmill.sources.saving import ReadRow

_CHUNKS_OF_AN_ITEM = 500
_MILLION = 1_000_000


class Walk(msgspec.Struct, frozen=True):
    """How far it has come, and what bounds its next batch. `allowed` rows, None: its time has not come; `over`: which
    limit ended it. `budget_left` in US dollars, with what waits taken off (None: no budget); `price` of a million
    tokens in all generations. `is_paced`: it is to wait between batches."""

    after: list[str] | None
    started_at: datetime
    rereads: bool
    allowed: int | None
    over: str | None
    budget_left: Decimal | None
    has_waiting: bool
    batch_id: UUID
    price: Decimal
    is_paced: bool


class Lack(msgspec.Struct, frozen=True):
    """What a document lacks that is to be seen to."""

    chunks: int
    tokens: int


class Batch(msgspec.Struct, frozen=True):
    """Rows that are walked past, and `left`, those of them that are still to be read; `read` were. `room` for so many
    items, `budget` in US dollars (None: no limit)."""

    walked: list[WalkedKey]
    left: list[str]
    lacking: Mapping[str, Lack]
    room: int
    budget: Decimal | None
    read: int = 0

    def ending_before(self, keys: set[str]) -> list[WalkedKey]:
        """A shorter one: the first of these rows is the first of another."""
        at = next(n for n, each in enumerate(self.walked) if each.key in keys)
        return self.walked[:at]


class Part(msgspec.Struct, frozen=True):
    """What of a batch is saved at once, and the batch as it is then."""

    look: Look
    rest: Batch
    is_over_budget: bool = False


class Ahead(msgspec.Struct, frozen=True):
    """The batch after the one that is being saved, and its first look."""

    walk: Walk
    batch: Batch
    look: Look

    def serves(self, walk: Walk, most: int) -> bool:
        """Whether the walk has come to it, and may read as much."""
        return (
            (walk.after, walk.started_at, walk.rereads)
            == (self.walk.after, self.walk.started_at, self.walk.rereads)
        ) and len(self.batch.left) <= most


def fitting(walk: Walk, batch: Batch, look: Look, window_items: int) -> Part:
    """Of what was looked at, the rows for which there is room in the queue and budget; the batch ends before the
    first for which there is not."""
    rows = {read.row.key: read for read in look.reading.rows}
    room, budget = batch.room, batch.budget
    fit: list[str] = []
    for key in look.keys:
        items, cost = _costs(rows.get(key), batch.lacking.get(key), walk.price)
        is_over_budget = budget is not None and cost > budget
        # The largest row must go at some time: when nothing else waits.
        has_no_room = items > room and room < window_items
        if is_over_budget or has_no_room:
            rest = msgspec.structs.replace(
                batch, walked=batch.ending_before({key, *look.left}), left=[], read=batch.read + len(fit)
            )
            return Part(_narrowed(look, fit), rest, is_over_budget)
        room -= items
        budget = None if budget is None else budget - cost
        fit.append(key)
    rest = msgspec.structs.replace(
        batch, left=look.left, room=room, budget=budget, read=batch.read + len(fit)
    )
    return Part(look, rest)


def _costs(read: ReadRow | None, lack: Lack | None, price: Decimal) -> tuple[int, Decimal]:
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
