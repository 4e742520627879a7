"""Dead letters: what failed for good and waits for a person, who has it tried again or lets it be. Owns looking
at them and dealing with them; how work is done again stands in retrying.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError
from embedmill.queue.acting import ITEMS_IN_A_STEP, Act, Progress
from embedmill.queue.retrying import EndedItem, redo_documents

_SQL = load_queries("embedmill.queue", "dead_letters.sql")
_LARGEST_ID = 2**63 - 1


class Letters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which open dead letters a person means; every field that is given must match. `record_source_id`: of a table or a
    shard feed; 0: of uploads."""

    ids: tuple[int, ...] = ()
    reason: str | None = None
    pipeline: str | None = None
    record_source_id: int | None = None

    def narrows(self) -> bool:
        return self != Letters()


class DeadLetter(msgspec.Struct, frozen=True):
    """`ordinal` names the chunk (from 0) where the letter is about one; `document` is None where it is gone,
    `item_id` where it was embedded without the queue."""

    id: int
    created_at: datetime
    reason: str
    error_message: str
    pipeline: str
    item_id: int | None
    document_id: int | None
    document: str | None
    ordinal: int | None
    resolved_at: datetime | None
    resolution: str | None
    resolved_by: str | None = None
    note: str | None = None


class LetterDetail(msgspec.Struct, frozen=True, kw_only=True):
    """All of one letter. `record_source` is the table or shard feed that its record is of; `job_id` the latest run of
    its upload; `document_trouble` why that has no chunks; the rest is of the chunk, where it is about one."""

    letter: DeadLetter
    chunk_id: int | None
    source_type: str | None
    source_id: str | None
    record_source_id: int | None
    record_source: str | None
    document_trouble: str | None
    job_id: UUID | None
    token_count: int | None
    start_offset: int | None
    end_offset: int | None
    text: str | None


class ReasonCount(msgspec.Struct, frozen=True):
    """Open letters of one reason."""

    reason: str
    letters: int
    first_at: datetime
    last_at: datetime


class LettersMatched(msgspec.Struct, frozen=True):
    """Open letters by reason, and the ids of the first and the last of each."""

    counts: dict[str, int]
    examples: list[int]

    @property
    def items(self) -> int:
        return sum(self.counts.values())


async def list_letters(
    database: Database, tenant_id: int, letters: Letters, *, resolved_too: bool, limit: int, after: int | None
) -> list[DeadLetter]:
    """A page of dead letters, the newest first; the next one is `after` the last id of this one."""
    given = await _given(database, tenant_id, letters)
    rows = await database.fetch(
        _SQL["list"],
        {
            **given,
            "resolved_too": resolved_too,
            "limit": limit,
            "after": _LARGEST_ID if after is None else after,
        },
    )
    return [DeadLetter(*row) for row in rows]


async def find_letter(database: Database, tenant_id: int, letter_id: int, *, with_text: bool) -> LetterDetail:
    """One letter, resolved or not; the text of its chunk only `with_text`. Raises NotFoundError."""
    row = None
    if 0 < letter_id < _LARGEST_ID:
        given = {"letter_id": letter_id, "tenant_id": tenant_id, "with_text": with_text}
        row = await database.fetch_one(_SQL["one"], given)
    if row is None:
        raise NotFoundError(f"there is no dead letter {letter_id}: `embedmill queue dead-letters` lists them")
    names = LetterDetail.__struct_fields__[1:]  # in the order of the query
    return LetterDetail(letter=DeadLetter(*row[:13]), **dict(zip(names, row[13:], strict=True)))


async def count_by_reason(database: Database, tenant_id: int, *, most: int) -> list[ReasonCount]:
    """Open letters by reason, the most frequent first; of the newest `most` only, so that it stays cheap."""
    rows = await database.fetch(_SQL["by_reason"], {"tenant_id": tenant_id, "most": most})
    return [ReasonCount(*row) for row in rows]


async def letter_sources(database: Database, tenant_id: int) -> dict[int, str]:
    """The tables and shard feeds of a tenant, by id."""
    return dict(await database.fetch(_SQL["sources"], {"tenant_id": tenant_id}))


async def count_letters(database: Database, tenant_id: int, letters: Letters) -> LettersMatched:
    rows = await database.fetch(_SQL["count"], await _given(database, tenant_id, letters))
    return LettersMatched(
        {row[0]: row[1] for row in rows}, sorted({letter_id for row in rows for letter_id in row[3:]})
    )


async def retry_letters(
    database: Database,
    tenant_id: int,
    letters: Letters,
    *,
    actor: str,
    on_progress: Progress = lambda done: None,
) -> Counter[str]:
    """Enqueue again what the documents of these letters lack; all letters of a document are dealt with together.
    Returns the counts of retrying.redo_documents."""
    act = _act(database, tenant_id, letters, "dead_letters.retry", actor)
    given = await _given(database, tenant_id, letters)
    after, last_id = 0, await _last_id(database, tenant_id)
    while after < last_id:
        found = await database.fetch(
            _SQL["next"], {**given, "after": after, "last_id": last_id, "limit": ITEMS_IN_A_STEP}
        )
        await redo_documents(act, tenant_id, [EndedItem(*row[1:]) for row in found])
        on_progress(act.done["items"])
        after = found[-1][0] if len(found) == ITEMS_IN_A_STEP else last_id
    return act.done


async def discard_letters(
    database: Database,
    tenant_id: int,
    letters: Letters,
    *,
    actor: str,
    note: str | None = None,
    on_progress: Progress = lambda done: None,
) -> Counter[str]:
    """Take these letters as dealt with, with a `note` why; what they are about stays without vectors. Returns how many
    `letters`."""
    act = _act(database, tenant_id, letters, "dead_letters.discard", actor, {"note": note} if note else {})
    given = await _given(database, tenant_id, letters)
    after, last_id = 0, await _last_id(database, tenant_id)
    while after < last_id:
        found = await database.fetch(
            _SQL["next"], {**given, "after": after, "last_id": last_id, "limit": ITEMS_IN_A_STEP}
        )
        letter_ids = [row[0] for row in found]
        await act.step(partial(_discard, tenant_id=tenant_id, letter_ids=letter_ids, note=note))
        on_progress(act.done["letters"])
        after = found[-1][0] if len(found) == ITEMS_IN_A_STEP else last_id
    return act.done


async def find_resolutions(database: Database, tenant_id: int, ids: Sequence[int]) -> dict[int, str | None]:
    """How the letters named by id were dealt with (None: open); without those unknown."""
    return dict(await database.fetch(_SQL["known"], {"ids": list(ids), "tenant_id": tenant_id}))


async def _discard(
    connection: Connection, *, tenant_id: int, letter_ids: list[int], note: str | None
) -> tuple[None, dict[str, int]]:
    cursor = await connection.execute(
        _SQL["discard"], {"letter_ids": letter_ids, "tenant_id": tenant_id, "note": note}
    )
    return None, {"letters": len(await cursor.fetchall())}


def _act(
    database: Database,
    tenant_id: int,
    letters: Letters,
    action: str,
    actor: str,
    more: dict[str, Any] | None = None,
) -> Act:
    aim = {"selection": msgspec.to_builtins(letters), **(more or {})}
    return Act(database, tenant_id, actor=actor, action=action, subject="dead letters", aim=aim)


async def _given(database: Database, tenant_id: int, letters: Letters) -> dict[str, Any]:
    generation_ids = None
    if letters.pipeline is not None:
        row = await database.fetch_one(
            _SQL["generations"], {"tenant_id": tenant_id, "pipeline": letters.pipeline}
        )
        generation_ids = row[0] if row else None
        if generation_ids is None:
            raise NotFoundError(f"there is no pipeline {letters.pipeline!r}: `embedmill pipeline list`")
    return {
        "tenant_id": tenant_id,
        "ids": list(letters.ids) or None,
        "reason": letters.reason,
        "generation_ids": generation_ids,
        "record_source_id": letters.record_source_id,
    }


async def _last_id(database: Database, tenant_id: int) -> int:
    row = await database.fetch_one(_SQL["last_id"], {"tenant_id": tenant_id})
    return int(row[0]) if row else 0
