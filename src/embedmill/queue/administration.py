"""What a person does with items and pipelines: cancel, retry, pause, resume. Owns the acts on the queue; what is
meant by a filter stands in selection.py, and how an act is done in steps in acting.py."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from psycopg import sql

from embedmill.core.jobs import ItemStatus
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConflictError
from embedmill.queue.acting import ITEMS_IN_A_STEP, Act, Progress, record_action
from embedmill.queue.retrying import EndedItem, redo_documents
from embedmill.queue.selection import LIVE, MATCHING, Scope

_SQL = load_queries("embedmill.queue", "administration.sql")


class Matched(msgspec.Struct, frozen=True):
    """How many items an act is about, by what they are at, and the ids of the first and the last of each."""

    counts: dict[str, int]
    examples: list[int]

    @property
    def items(self) -> int:
        return sum(self.counts.values())


class Paused(msgspec.Struct, frozen=True):
    """The pipelines that changed, and how many of their items workers hold."""

    pipelines: list[str]
    items_in_work: int


class SampledItem(msgspec.Struct, frozen=True):
    """One of those that an act would be about."""

    id: int
    status: str
    source_type: str
    source_id: str
    part: int
    error_message: str | None


class RetryCost(msgspec.Struct, frozen=True):
    """What a retry sends at the most. `cost_usd` leaves out `unpriced_tokens`; None: no price is known."""

    tokens: int
    cost_usd: Decimal | None
    unpriced_tokens: int


class RetryPreview(msgspec.Struct, frozen=True):
    """What a retry would be about: how many, the first of the ended ones, and what those send."""

    matched: Matched
    sample: list[SampledItem]
    cost: RetryCost


class AuditRecord(msgspec.Struct, frozen=True):
    """A row of the audit log."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    old_value: Any
    new_value: Any


async def count_cancellable(database: Database, scope: Scope) -> Matched:
    """The live items that match."""
    if not scope.selection.reaches(LIVE):
        return Matched({}, [])
    return await _count(database, scope, "count_live")


async def cancel_items(
    database: Database, scope: Scope, *, actor: str, on_progress: Progress = lambda done: None
) -> Counter[str]:
    """Cancel the live items that match, also those in work: their workers write nothing more. Returns how many,
    by what they were at."""
    act = _act(database, scope, "queue.cancel", actor)
    if scope.selection.reaches(LIVE):
        message = f"cancelled by {actor}"
        after, last_id = 0, await _last_id(database)
        while after < last_id:
            after = await act.step(
                partial(_cancel_some, scope=scope, message=message, after=after, last_id=last_id)
            )
            on_progress(act.done.total())
    return act.done


async def _cancel_some(
    connection: Connection, *, scope: Scope, message: str, after: int, last_id: int
) -> tuple[int, dict[str, int]]:
    found = await _select(connection, scope, "lock_live", after=after, last_id=last_id)
    await connection.execute(
        _SQL["cancel_items"], {"item_ids": [row[0] for row in found], "message": message}
    )
    return _next(found, last_id), Counter(row[1] for row in found)


async def preview_retry(database: Database, scope: Scope, *, limit: int) -> RetryPreview:
    """What a retry would be about: `waiting out a failure` (live), `failed` and `cancelled` (ended); with the first
    `limit` of the ended ones."""
    waiting, ended = Matched({}, []), []
    if scope.selection.reaches((ItemStatus.PENDING,)):
        waiting = await _count(database, scope, "count_waiting_out")
    if _reaches_ended(scope):
        ended = await _look(database, scope, "preview_retryable", limit=limit)
    by_status: Counter[str] = Counter()
    for status, items, *_ in ended:
        by_status[status] += items
    examples = sorted({item_id for row in ended for item_id in row[2:4]})
    return RetryPreview(
        Matched({**waiting.counts, **by_status}, waiting.examples + examples),
        msgspec.convert(ended[0][6], list[SampledItem]) if ended else [],
        _cost([(tokens, usd) for *_, tokens, usd, _ in ended]),
    )


async def count_retryable(database: Database, scope: Scope) -> Matched:
    """How many that would be."""
    return (await preview_retry(database, scope, limit=1)).matched


async def retry_items(
    database: Database, scope: Scope, *, actor: str, on_progress: Progress = lambda done: None
) -> Counter[str]:
    """Retry the failed and cancelled items that match, each as its document: what that lacks is enqueued as new
    items. Items that wait out a failure become due now; what a provider asked to wait goes on waiting. Returns
    how many were `made_due`, and the counts of retrying.redo_documents."""
    act = _act(database, scope, "queue.retry", actor)
    last_id = await _last_id(database)
    after = 0
    while after < last_id and scope.selection.reaches((ItemStatus.PENDING,)):
        after = await act.step(partial(_make_due, scope=scope, after=after, last_id=last_id))
        on_progress(act.done["made_due"])
    after = 0
    while after < last_id and _reaches_ended(scope):
        async with database.connection() as connection:
            found = await _select(connection, scope, "next_retryable", after=after, last_id=last_id)
        await redo_documents(act, scope.tenant_id, [EndedItem(*row) for row in found])
        on_progress(act.done["made_due"] + act.done["items"])
        after = _next(found, last_id)
    return act.done


async def _make_due(
    connection: Connection, *, scope: Scope, after: int, last_id: int
) -> tuple[int, dict[str, int]]:
    found = await _select(connection, scope, "lock_waiting_out", after=after, last_id=last_id)
    await connection.execute(_SQL["make_due"], {"item_ids": [row[0] for row in found]})
    return _next(found, last_id), {"made_due": len(found)}


async def sample_cancellable(database: Database, scope: Scope, *, limit: int) -> list[SampledItem]:
    """The first of those that a cancel would be about."""
    if not scope.selection.reaches(LIVE):
        return []
    return [SampledItem(*row) for row in await _look(database, scope, "sample_live", limit=limit)]


async def set_priority(database: Database, tenant_id: int, item_id: int, priority: str, *, actor: str) -> str:
    """Put a waiting item into another lane; returns the one it was in. Raises ConflictError where it does not wait."""
    async with database.transaction() as connection:
        cursor = await connection.execute(
            _SQL["set_priority"], {"item_id": item_id, "tenant_id": tenant_id, "priority": priority}
        )
        row = await cursor.fetchone()
        if row is None:
            raise ConflictError(f"item {item_id} does not wait any more: its priority changes nothing")
        if row[0] != priority:
            await record_action(
                connection,
                tenant_id,
                actor=actor,
                action="queue.priority",
                subject=f"item {item_id}",
                old_value=msgspec.json.encode(row[0]).decode(),
                new_value=msgspec.json.encode(priority).decode(),
            )
    return str(row[0])


async def find_whereabouts(database: Database, scope: Scope) -> dict[int, tuple[str, bool]]:
    """What the items named by id are at now, and whether they wait for a later time; without those unknown."""
    rows = await database.fetch(
        _SQL["whereabouts"], {"ids": list(scope.selection.ids), "tenant_id": scope.tenant_id}
    )
    return {row[0]: (row[1], row[2]) for row in rows}


async def pause(database: Database, tenant_id: int, pipeline: str | None, *, actor: str) -> Paused:
    """Let nothing of a pipeline, or of all of the tenant's (None), be claimed; what is held goes on to its end."""
    return await _switch(database, tenant_id, pipeline, "pause", actor)


async def resume(database: Database, tenant_id: int, pipeline: str | None, *, actor: str) -> Paused:
    """Let it be claimed again."""
    return await _switch(database, tenant_id, pipeline, "resume", actor)


async def read_audit_log(database: Database, tenant_id: int, *, limit: int) -> list[AuditRecord]:
    """The newest acts on what is the tenant's or everybody's."""
    rows = await database.fetch(_SQL["audit_log"], {"tenant_id": tenant_id, "limit": limit})
    return [AuditRecord(*row) for row in rows]


async def _switch(
    database: Database, tenant_id: int, pipeline: str | None, action: str, actor: str
) -> Paused:
    async with database.transaction() as connection:
        cursor = await connection.execute(_SQL[action], {"tenant_id": tenant_id, "pipeline": pipeline})
        names = sorted(row[0] for row in await cursor.fetchall())
        for name in names:
            await record_action(
                connection,
                tenant_id,
                actor=actor,
                action=f"queue.{action}",
                subject=name,
                old_value=None,
                new_value=None,
            )
        cursor = await connection.execute(_SQL["in_work"], {"tenant_id": tenant_id, "names": names})
        row = await cursor.fetchone()
    return Paused(names, int(row[0]) if row else 0)


def _act(database: Database, scope: Scope, action: str, actor: str) -> Act:
    aim = scope.selection.record()
    return Act(database, scope.tenant_id, actor=actor, action=action, subject="items", aim={"selection": aim})


def _reaches_ended(scope: Scope) -> bool:
    return scope.selection.reaches((ItemStatus.FAILED, ItemStatus.CANCELLED))


def _given(scope: Scope) -> dict[str, Any]:
    """The filters, and which ended items may be retried without being asked for by name."""
    asked = scope.selection
    cancelled_too = (
        ItemStatus.CANCELLED in asked.statuses
        or bool(asked.ids)
        or asked.batch_id is not None
        or asked.job_id is not None
    )
    return {**scope.given, "by_id": bool(asked.ids), "cancelled_too": cancelled_too}


async def _count(database: Database, scope: Scope, name: str) -> Matched:
    rows = await _look(database, scope, name)
    examples = sorted({item_id for row in rows for item_id in row[2:]})
    return Matched({row[0]: row[1] for row in rows if row[1]}, examples)


def _cost(groups: list[tuple[int, Decimal | None]]) -> RetryCost:
    """Of groups of items with their tokens and price; None where nobody knows it."""
    tokens = sum(group[0] for group in groups)
    priced = [usd for _, usd in groups if usd is not None]
    unpriced = sum(group[0] for group in groups if group[1] is None)
    return RetryCost(tokens, sum(priced, Decimal(0)) if priced or not tokens else None, unpriced)


async def _look(database: Database, scope: Scope, name: str, **more: Any) -> list[Any]:
    async with database.transaction() as connection:
        await connection.execute(_SQL["by_index"])
        cursor = await connection.execute(_complete(name), {**_given(scope), **more}, prepare=False)
        return await cursor.fetchall()


async def _select(connection: Connection, scope: Scope, name: str, *, after: int, last_id: int) -> list[Any]:
    given = {**_given(scope), "after": after, "last_id": last_id, "limit": ITEMS_IN_A_STEP}
    cursor = await connection.execute(_complete(name), given, prepare=False)
    return await cursor.fetchall()


def _complete(name: str) -> sql.Composed:
    return _SQL[name].format(matching=MATCHING, retryable=_SQL["retryable"].format(matching=MATCHING))


def _next(found: list[Any], last_id: int) -> int:
    """Where the next page begins: after the last of this one, which may be the end."""
    return int(found[-1][0]) if len(found) == ITEMS_IN_A_STEP else last_id


async def _last_id(database: Database) -> int:
    row = await database.fetch_one(_SQL["last_id"])
    return int(row[0]) if row else 0
