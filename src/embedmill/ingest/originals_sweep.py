"""Removes originals that no job names: what uploads left that were cut off or killed, jobs that were deleted, and what
is past its retention (originals_retention_days). Owns which they are; must not touch one that a job names, or may still
come to name. Any number of services may sweep side by side.

What is younger than a day may belong to an upload that is under way; bytes that were kept twelve hours ago get no job
any more (upload.py). So between the two no lock is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from embedmill.database.patience import AWAY
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import StorageError
from embedmill.ingest.upload import LONGEST_KEPT_SECONDS
from embedmill.ports import Originals, original_key

_SQL = load_queries("embedmill.ingest", "originals_sweep.sql")
_log = structlog.get_logger(__name__)

KEPT = timedelta(days=1)
_SWEEP_SECONDS = 3600.0
# A service that has just started, perhaps one of many, answers first.
_FIRST_SWEEP_SECONDS = 120.0
_KEYS_AT_ONCE = 500
# No tenant has it: here each database that uses the store leaves its mark.
_MARKS = "tenants/0/"


class OriginalsSweep:
    """Sweeps about every hour, until `stop()`. `database` connects as the owner of the schema, who sees all tenants."""

    def __init__(
        self,
        database: Database,
        originals: Originals,
        *,
        older_than: timedelta = KEPT,
        first_seconds: float = _FIRST_SWEEP_SECONDS,
        every_seconds: float = _SWEEP_SECONDS,
        chance: random.Random | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises ValueError for an age at which an upload might still be under way."""
        if older_than.total_seconds() < 2 * LONGEST_KEPT_SECONDS:
            raise ValueError("originals of less than a day may belong to an upload that is under way")
        self._database = database
        self._originals = originals
        self._older_than = older_than
        self._first_seconds = first_seconds
        self._every_seconds = every_seconds
        self._chance = chance or random.Random()  # noqa: S311 - it spreads services that started together
        self._now = now
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """A store or a database that is away is no reason to end: the next sweep finds what this one misses."""
        wait = self._first_seconds
        while not await self._stops_within(wait * self._chance.uniform(0.8, 1.2)):
            try:
                await self.sweep()
            except (StorageError, *AWAY) as error:
                _log.warning("originals not swept", error=str(error).strip())
            wait = self._every_seconds

    async def sweep(self) -> int:
        """Once through the store; how many were removed. Raises StorageError, and what a database gives that is
        away."""
        if not await self._is_ours_alone():
            return 0
        dropped, removed = await self._drop_expired(), 0
        batch: list[str] = []
        async for key in self._originals.list_older("tenants/", self._now() - self._older_than):
            if not key.startswith(_MARKS):
                batch.append(key)
            if len(batch) == _KEYS_AT_ONCE:
                removed += await self._remove_unnamed(batch)
                batch = []
            if self._stopping.is_set():
                return dropped + removed
        removed += await self._remove_unnamed(batch)
        if removed:
            _log.info("originals that no job names removed", originals=removed)
        return dropped + removed

    async def _drop_expired(self) -> int:
        """What is past its retention. First no job names it any more, then it goes: what a crash leaves in between is
        nobody's, and found by the next sweep."""
        dropped = 0
        while not self._stopping.is_set():
            row = await self._database.fetch_one(_SQL["forget_originals"], {"limit": _KEYS_AT_ONCE})
            keys = list(row[0]) if row else []
            dropped += await self._remove_unnamed(keys)
            if len(keys) < _KEYS_AT_ONCE:
                break
        if dropped:
            _log.info("originals past their retention dropped", originals=dropped)
        return dropped

    async def _remove_unnamed(self, keys: list[str]) -> int:
        rows = await self._database.fetch(_SQL["select_unnamed"], {"keys": keys}) if keys else []
        for (key,) in rows:
            await self._originals.delete(key)
        return len(rows)

    async def _is_ours_alone(self) -> bool:
        """Whether no other database keeps its originals here: to us they would seem to be nobody's."""
        row = await self._database.fetch_one(_SQL["identify"])
        assert row is not None  # noqa: S101 - it always gives one row
        if not row[1]:
            _log.warning("originals not swept: this account does not see every tenant's jobs")
            return False
        ours = original_key(0, UUID(row[0]))
        await self._originals.put(ours, _once(b"a database keeps its originals here\n"), max_bytes=100)
        marks = {key async for key in self._originals.list_older(_MARKS, self._now() + KEPT)}
        others = sorted(key for key in marks - {ours} if ".part-" not in key)
        if others:
            _log.warning(
                "originals not swept: another database keeps its own in this store. Give each its own store; if that "
                "database is gone, remove its marks",
                marks=others,
            )
        return not others

    async def _stops_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()


async def _once(piece: bytes) -> AsyncIterator[bytes]:
    yield piece
