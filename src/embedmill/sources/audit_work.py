"""What every step of an audit works with: the database, the audit that is carried out, and whether a kind is mended.
Owns how a batch is mended and saved together; must not know any kind of fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg

from embedmill.database.pool import Connection, Database
from embedmill.sources.audit_kinds import KINDS, Example
from embedmill.sources.audits import HeldAudit

ATTEMPTS = 5
"""A repair that meets a deadlock, or a lock that is not given, is tried so often."""
_TRY_AGAIN = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.SerializationFailure,
)

Step = Callable[[Any], AsyncIterator[None]]
"""Begins where its cursor says; yields after each batch, when it is saved."""
Note = tuple[str, Example, int]
"""A kind, an example of it, and how many it stands for."""


class AuditWork:
    """One audit under way."""

    def __init__(self, database: Database, held: HeldAudit) -> None:
        self.database = database
        self.scope = held.record.scope
        self._held = held
        self._step: str | None = None

    def begin(self, step: str) -> None:
        """What is saved from now on is of this step."""
        self._step = step

    def mends(self, kind: str) -> bool:
        """Whether this audit sets such a thing right."""
        wanted = self._held.record.mends
        return wanted == "all" or (wanted == "books" and KINDS[kind].is_bookkeeping)

    def note(self, kind: str, example: Example, *, count: int = 1, mended: bool = False) -> None:
        self._held.findings.note(kind, example, count=count, mended=count if mended else 0)

    async def save(self, cursor: Any, *, looked: int = 0) -> None:
        """A batch is through."""
        self._held.looked += looked
        await self._held.save(self._step, cursor)

    async def mend(self, cursor: Any, act: Callable[[Connection], Awaitable[list[Note]]]) -> None:
        """Mend in one transaction with the note of what was mended: cut off, both have happened or neither. `cursor` is
        where the step goes on after a cut: the batch is still to be saved."""
        for attempt in range(ATTEMPTS):
            try:
                async with self.database.transaction() as connection:
                    mended = await act(connection)
                    before = self._held.findings.copy()
                    try:
                        for kind, example, count in mended:
                            self.note(kind, example, count=count, mended=True)
                        await self._held.save(self._step, cursor, connection=connection)
                    except BaseException:
                        self._held.findings = before
                        raise
            except _TRY_AGAIN:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return
