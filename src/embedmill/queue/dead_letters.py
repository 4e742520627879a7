"""Dead letters: what failed for good and waits for a person, who has it tried again or lets it be. Owns looking
at them and dealing with them; how work is done again stands in retrying.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError
from embedmill.queue.acting import ITEMS_IN_A_STEP, Act, Progress
from embedmill.queue.retrying import EndedItem, redo_documents

_SQL = load_queries("embedmill.queue", "dead_letters.sql")
_LARGEST_ID = 2**63 - 1


class Letters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which open dead letters a person means; every field that is given must match."""

    ids: tuple[int, ...] = ()
    reason: str | None = None
    pipeline: str | None = None

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
    after, last_id = 0, await _last_id(database)
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
    on_progress: Progress = lambda done: None,
) -> Counter[str]:
    """Take these letters as dealt with; what they are about stays without vectors. Returns how many `letters`."""
    act = _act(database, tenant_id, letters, "dead_letters.discard", actor)
    given = await _given(database, tenant_id, letters)
    after, last_id = 0, await _last_id(database)
    while after < last_id:
        found = await database.fetch(
            _SQL["next"], {**given, "after": after, "last_id": last_id, "limit": ITEMS_IN_A_STEP}
        )
        await act.step(partial(_discard, tenant_id=tenant_id, letter_ids=[row[0] for row in found]))
        on_progress(act.done["letters"])
        after = found[-1][0] if len(found) == ITEMS_IN_A_STEP else last_id
    return act.done


async def find_resolutions(database: Database, tenant_id: int, ids: Sequence[int]) -> dict[int, str | None]:
    """How the letters named by id were dealt with (None: open); without those unknown."""
    return dict(await database.fetch(_SQL["known"], {"ids": list(ids), "tenant_id": tenant_id}))


async def _discard(
    connection: Connection, *, tenant_id: int, letter_ids: list[int]
) -> tuple[None, dict[str, int]]:
    cursor = await connection.execute(_SQL["discard"], {"letter_ids": letter_ids, "tenant_id": tenant_id})
    return None, {"letters": len(await cursor.fetchall())}


def _act(database: Database, tenant_id: int, letters: Letters, action: str, actor: str) -> Act:
    aim = {"selection": msgspec.to_builtins(letters)}
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
    }


async def _last_id(database: Database) -> int:
    row = await database.fetch_one(_SQL["last_id"])
    return int(row[0]) if row else 0
