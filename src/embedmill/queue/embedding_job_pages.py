"""A page of embedding jobs: which parts of the statement, which index, which days. Owns what makes it quick; must not
know what is shown of a row.

A page is newest first by the item's id, which it keeps when it moves to the history, and comes from one statement: an
item that moves between two pages is neither skipped nor seen twice. The history has a partition for each day, and
to open all of them costs more than the page: one that ends with an item created after a day began can hold nothing
that ended before that day, so that a page comes from the newest days that suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from psycopg import sql

from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries

_SQL = load_queries("embedmill.queue", "embedding_jobs.sql")
# So many rows are sorted within a page's time: up to here a tenant's own are looked up, beyond it the order by id
# brings enough of them soon.
_FEW = 2000
# With more days than this the plan itself costs more than the reading: made once for each connection, and kept.
_DAYS_WORTH_A_PLAN = 10
# Of a pipeline alone nothing has an index, nor of a kind of source in the order of time: so many ended items are looked
# through for a page, or live ones, which are wider. The page may then be short.
LOOKED_THROUGH = 5_000
LIVE_LOOKED_THROUGH = 5_000


class JobState(StrEnum):
    """What an embedding job is at. Pending ones include those that wait for a rate limit."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_LIVE = (JobState.PENDING, JobState.PROCESSING)


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs: None is any. A `source_id` names a source together with its `source_type`; `pipeline` is a name."""

    status: JobState | None = None
    source_type: str | None = None
    source_id: str | None = None
    batch_id: UUID | None = None
    job_id: UUID | None = None
    pipeline: str | None = None


class Page:
    """One page as it is put together."""

    def __init__(
        self, tenant_id: int, which: JobFilter, before: int, newest: datetime | None, limit: int
    ) -> None:
        self._which = which
        self._limit = limit
        self._newest = newest or datetime.now(UTC)
        self._given: dict[str, Any] = {
            "tenant_id": tenant_id,
            "before": before,
            "limit": limit,
            "few": _FEW,
            "live_looked_through": LIVE_LOOKED_THROUGH,
            **msgspec.structs.asdict(which),
        }
        self.floor: int | None = None
        """Items older than this id were not looked at: the page may be short and another follow it. None: all were."""

    async def read(self, connection: Connection) -> list[tuple[Any, ...]]:
        """The rows, at most `limit`."""
        if self._which.job_id is not None and not await self._find_job(connection):
            return []
        if self._which.pipeline is not None and not await self._find_pipeline(connection):
            return []
        finder = await self._finder(connection)
        rare = await self._is_rare(connection)
        if self._looks_through_ended and not rare:
            await self._look_through(connection, "floor", LOOKED_THROUGH)
        for since in await self._beginnings(connection):
            rows = await self._read_since(connection, finder, rare, since)
            if since is None or (len(rows) >= self._limit and rows[-1][7] >= since):
                return (
                    await self._above_live_floor(connection, rows)
                    if self._looks_through_live(finder)
                    else rows
                )
        raise AssertionError("the last beginning is that of all days")

    async def _read_since(
        self, connection: Connection, finder: list[sql.SQL], rare: bool, since: datetime | None
    ) -> list[tuple[Any, ...]]:
        ended: sql.Composed | sql.SQL = _SQL["none_ended"]
        if self._which.status not in _LIVE:
            ended = _SQL["ended_rare" if rare else "ended"].format(
                status=self._status(),
                which=self._filters(ended=True),
                order=self._order(),
                days=_SQL["all_days" if since is None else "recent_days"],
            )
        wide = since is None or (datetime.now(UTC) - since).days > _DAYS_WORTH_A_PLAN
        plans = "force_generic_plan" if wide else "force_custom_plan"
        await connection.execute(_SQL["tune"], {"plans": plans})
        cursor = await connection.execute(
            _SQL["page"].format(live=self._live(finder), ended=ended),
            {**self._given, "since": since},
            prepare=wide,
        )
        return await cursor.fetchall()

    async def _find_job(self, connection: Connection) -> bool:
        """An ingestion job's items are found by its document's source."""
        row = await (await connection.execute(_SQL["job_source"], self._given)).fetchone()
        if row is None:
            return False
        _, source_type, source_id = row
        named = (self._which.source_type or source_type, self._which.source_id or source_id)
        self._given.update(source_type=source_type, source_id=source_id)
        return named == (source_type, source_id)

    async def _find_pipeline(self, connection: Connection) -> bool:
        """A pipeline's items are those of its generations."""
        rows = await (await connection.execute(_SQL["generations_of"], self._given)).fetchall()
        self._given["chosen_generations"] = [row[0] for row in rows]
        return bool(rows)

    async def _look_through(self, connection: Connection, name: str, most: int) -> None:
        """No further than `most` items that are not ordered by what was asked for; where that ends, the page does."""
        await connection.execute(_SQL["tune"], {"plans": "force_generic_plan"})
        statement = _SQL[name].format(status=self._status())
        given = {**self._given, "looked_through": most}
        row = await (await connection.execute(statement, given, prepare=True)).fetchone()
        if row is not None:
            self.floor = self._given["floor"] = max(row[0], self.floor or 0)

    def _live(self, finder: list[sql.SQL]) -> sql.Composed | sql.SQL:
        if self._which.status not in (None, *_LIVE):
            return _SQL["none_live"]
        which = sql.SQL(" AND ").join([self._filters(), *finder])
        part = "live_found" if finder else "live_within" if self._looks_through_live(finder) else "live"
        return _SQL[part].format(status=self._status(), which=which)

    def _looks_through_live(self, finder: list[sql.SQL]) -> bool:
        """Whether live ones are found by looking at so many as may be looked at."""
        return self._which.source_type is not None and not finder and self._which.status in (None, *_LIVE)

    async def _above_live_floor(
        self, connection: Connection, rows: list[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Where live ones may be left that were not looked at, what is older than they are waits for another page."""
        if sum(row[9] is None for row in rows) == self._limit:
            return rows
        await self._look_through(connection, "live_floor", LIVE_LOOKED_THROUGH)
        return [row for row in rows if self.floor is None or row[0] >= self.floor]

    async def _finder(self, connection: Connection) -> list[sql.SQL]:
        """By which index the live ones are found, where it holds few; none: by the order by id."""
        if self._which.status not in (None, *_LIVE):
            return []
        if self._by_source:
            await self._name_generations(connection)
            return [_SQL["found_by_source"]]
        if self._which.batch_id is not None and not await self._ask(connection, "is_large_batch"):
            return [_SQL["found_by_batch"]]
        if self._which.status is JobState.PROCESSING:
            return [_SQL["found_in_work"]]
        if await self._ask(connection, "live_items") <= _FEW:
            await self._name_generations(connection)
        elif self._which.pipeline is not None and await self._ask(connection, "live_of_pipeline") <= _FEW:
            self._given["generation_ids"] = self._given["chosen_generations"]
        else:
            return []
        return [_SQL["found_few"]]

    async def _name_generations(self, connection: Connection) -> None:
        rows = await (await connection.execute(_SQL["generations"], self._given)).fetchall()
        self._given["pipeline_ids"] = sorted({row[0] for row in rows})
        self._given["generation_ids"] = [row[1] for row in rows]

    async def _is_rare(self, connection: Connection) -> bool:
        if self._which.source_type is None or self._by_source or self._which.status in _LIVE:
            return False
        await connection.execute(_SQL["tune"], {"plans": "force_generic_plan"})
        return bool(await self._ask(connection, "is_rare_type"))

    async def _beginnings(self, connection: Connection) -> Sequence[datetime | None]:
        """From which days on to look for ended items, one after the other until the page is full; None: from all.
        Only where it is all of a tenant's can the counts say which days suffice."""
        if self._which.status in _LIVE or self._filters() != _SQL["of_any_status"]:
            return [None]
        statuses = [self._which.status] if self._which.status else ["completed", "failed", "cancelled"]
        row = await (
            await connection.execute(
                _SQL["first_day"], {**self._given, "statuses": statuses, "newest": self._newest}
            )
        ).fetchone()
        return [None] if row is None or row[0] is None else [row[0], None]

    async def _ask(self, connection: Connection, question: str) -> Any:
        row = await (await connection.execute(_SQL[question], self._given)).fetchone()
        return row[0] if row else 0

    @property
    def _by_source(self) -> bool:
        return self._which.source_id is not None or self._which.job_id is not None

    @property
    def _looks_through_ended(self) -> bool:
        """Whether no index has ended ones by what was asked for."""
        narrows = self._which.pipeline is not None or self._which.source_type is not None
        is_indexed = self._by_source or self._which.batch_id is not None
        return narrows and not is_indexed and self._which.status not in _LIVE

    def _status(self) -> sql.SQL:
        return _SQL[f"of_{self._which.status or 'any_status'}"]

    def _order(self) -> sql.SQL:
        """Always that by id, said so that the index that finds fewest is the one that has it."""
        if self._by_source:
            return _SQL["by_source"]
        return _SQL["by_id" if self._which.batch_id is None else "by_batch"]

    def _filters(self, *, ended: bool = False) -> sql.Composed | sql.SQL:
        """What was asked for, in words that fit live items, or ended ones."""
        asked = {
            "of_type": self._which.source_type is not None or self._by_source,
            "in_source" if ended else "of_source": self._by_source,
            "in_batch" if ended and not self._by_source else "of_batch": self._which.batch_id is not None,
            "of_job": self._which.job_id is not None,
            "of_pipeline": self._which.pipeline is not None,
            "above_floor": self.floor is not None,
        }
        parts = [_SQL[name] for name, holds in asked.items() if holds]
        return sql.SQL(" AND ").join(parts) if parts else _SQL["of_any_status"]
