"""What a person does to many items at once: in steps, each a transaction of its own, and one row of the audit
log that counts with every step. Owns the steps; must not know what is done in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import psycopg

from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.queue", "administration.sql")
T = TypeVar("T")
ITEMS_IN_A_STEP = 1000
_TRIES = 5

Progress = Callable[[int], None]


class Act:
    """One act of a person, such as `queue.cancel`, with what it was aimed at."""

    def __init__(
        self,
        database: Database,
        tenant_id: int | None,
        *,
        actor: str,
        action: str,
        subject: str,
        aim: dict[str, Any],
    ) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._actor = actor
        self._action = action
        self._subject = subject
        self._aim = aim
        self._record_id: int | None = None
        self.done: Counter[str] = Counter()
        """What is done and committed, all steps together."""

    async def step(self, work: Callable[[Connection], Awaitable[tuple[T, dict[str, int]]]]) -> T:
        """Do one transaction. `work` returns its result and how much of what it did, which is counted and goes
        into the audit log. Repeated where PostgreSQL ends it for another's sake."""
        for attempt in range(_TRIES):
            try:
                return await self._step(work)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _step(self, work: Callable[[Connection], Awaitable[tuple[T, dict[str, int]]]]) -> T:
        async with self._database.transaction() as connection:
            await connection.execute(_SQL["act_as"], {"actor": self._actor})
            result, counts = await work(connection)
            done = self.done + Counter(counts)
            record_id = self._record_id if done == self.done else await self._record(connection, done)
        self._record_id = record_id
        self.done = done
        return result

    async def _record(self, connection: Connection, done: Counter[str]) -> int:
        new_value = msgspec.json.encode({**self._aim, "done": done}).decode()
        if self._record_id is not None:
            await connection.execute(
                _SQL["advance_record"], {"record_id": self._record_id, "new_value": new_value}
            )
            return self._record_id
        return await record_action(
            connection,
            self._tenant_id,
            actor=self._actor,
            action=self._action,
            subject=self._subject,
            old_value=None,
            new_value=new_value,
        )


async def record_action(
    connection: Connection,
    tenant_id: int | None,
    *,
    actor: str,
    action: str,
    subject: str,
    old_value: str | None,
    new_value: str | None,
) -> int:
    """Write one act to the audit log, within the transaction that does it; values are JSON. Returns its row."""
    await connection.execute(_SQL["act_as"], {"actor": actor})
    cursor = await connection.execute(
        _SQL["record_action"],
        {
            "tenant_id": tenant_id,
            "action": action,
            "subject": subject,
            "old_value": old_value,
            "new_value": new_value,
        },
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
