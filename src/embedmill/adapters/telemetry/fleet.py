"""What is true of the whole fleet, read from the database when somebody asks for metrics. Owns the reading and that
many who ask at once cost one; what is read stands in fleet.sql."""

from __future__ import annotations

import asyncio
import time

import msgspec
import structlog

from embedmill.adapters.telemetry.catalog import MOST_NAMED, PREFIX
from embedmill.database.patience import AWAY
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.adapters.telemetry", "fleet.sql")
_log = structlog.get_logger(__name__)
# The blocks in order; those that look into queues come under `by_index`, which holds to the end.
_BLOCKS = (
    "switches",
    "usage",
    "coverage",
    "sources",
    "workers",
    "quotas",
    "budgets",
    "database",
    "by_index",
    "queue_waiting",
    "parsing",
    "webhooks",
)
_KEPT_SECONDS = 2.0
# Whoever scrapes gives up after ten seconds.
_LONGEST_SECONDS = 4.0


class Reading(msgspec.Struct, frozen=True):
    """`rows`: (metric, values of its labels, value). `is_up`: whether the database answered; it is empty otherwise."""

    rows: list[tuple[str, tuple[str, ...], float]]
    seconds: float
    is_up: bool


class Fleet:
    """Reads at most every `kept_seconds`. `database` must see every tenant."""

    def __init__(self, database: Database, *, kept_seconds: float = _KEPT_SECONDS) -> None:
        self._database = database
        self._kept_seconds = kept_seconds
        self._turn = asyncio.Lock()
        self._read_at = float("-inf")
        self._reading = Reading([], 0.0, is_up=False)

    async def read(self) -> Reading:
        """The state of a moment ago."""
        async with self._turn:
            if time.monotonic() - self._read_at > self._kept_seconds:
                self._reading = await self._look()
                self._read_at = time.monotonic()
            return self._reading

    async def _look(self) -> Reading:
        started = time.perf_counter()
        rows: list[tuple[str, tuple[str, ...], float]] = []
        try:
            async with asyncio.timeout(_LONGEST_SECONDS), self._database.transaction() as connection:
                await connection.execute(_SQL["bounds"])
                for block in _BLOCKS:
                    cursor = await connection.execute(_SQL[block], {"named": MOST_NAMED})
                    if block != "by_index":
                        rows += [
                            (PREFIX + name, tuple(labels), value)
                            for name, labels, value in await cursor.fetchall()
                        ]
        except (*AWAY, TimeoutError) as error:
            _log.warning("metrics without the database", error=str(error).strip() or "no answer in time")
            return Reading([], time.perf_counter() - started, is_up=False)
        return Reading(rows, time.perf_counter() - started, is_up=True)
