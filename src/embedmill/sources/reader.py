"""The reader of records: a companion of the worker that leases sources and reads what has changed in them, and their
backfills. Owns its rhythm and what is done when a source cannot be read; must not know how a row becomes a document.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from uuid import UUID

import psycopg
import structlog

from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import pipeline_by_id
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.ports import Cutter
from embedmill.sources.backfill import Backfill
from embedmill.sources.catalog import end_trouble, record_source, set_trouble, told
from embedmill.sources.reading import BATCH_ROWS, WINDOW_ITEMS, SourceReading
from embedmill.sources.saving import LEASE_SECONDS, Saved
from embedmill.sources.tables import count_rows

_SQL = load_queries("embedmill.sources", "reading.sql")
_log = structlog.get_logger(__name__)

# A source that cannot be read is left alone for so long; what is wrong with it stands in its `trouble`.
TROUBLED_SECONDS = 30.0
# How long one source is read before others have their turn.
TURN_SECONDS = 5.0
# Few changes are not followed by more reading of changes before this: what comes meanwhile is read together. (A row
# that is edited again and again is held back for longer, by itself: reading.py.)
CALM_SECONDS = 0.015
# Where something was read, more is likely to come: it is looked for as often for so long.
BUSY_SECONDS = 5.0
# The server's word on what it was asked, and not on itself, though psycopg counts it among the latter.
_OF_THE_SOURCE = (psycopg.errors.ProgramLimitExceeded, psycopg.errors.QueryCanceled)


class RecordReader:
    """Reads `sources_at_once` sources at a time until `stop()`."""

    def __init__(
        self,
        database: Database,
        cutter: Cutter,
        *,
        worker_id: UUID,
        source_ids: Sequence[int] | None = None,
        sources_at_once: int = 2,
        poll_seconds: float = 0.25,
        on_saved: Callable[[int, Saved], None] = lambda source_id, saved: None,
        window_items: int = WINDOW_ITEMS,
        max_rows: int | None = None,
    ) -> None:
        """`source_ids`: these only. `on_saved` is told of each batch, with its source. What is read makes at most
        `window_items` wait in a queue; after about `max_rows` no more is read."""
        self._window_items = window_items
        self._rows_left = max_rows
        self._database = database
        self._cutter = cutter
        self._worker_id = worker_id
        self._source_ids = source_ids
        self._sources_at_once = sources_at_once
        self._poll_seconds = poll_seconds
        self._on_saved = on_saved
        self._stopping = asyncio.Event()
        # Leases that could not be given back, by their token: of which source.
        self._unreleased: dict[int, int] = {}

    def stop(self) -> None:
        self._stopping.set()

    @property
    def goes_on(self) -> bool:
        """Whether it reads on: it was not stopped, and `max_rows` are not read yet."""
        return not self._stopping.is_set() and self._rows_left != 0

    async def run(self) -> None:
        """Until `stop()`; the batch that is under way is finished. The cutter is closed at the end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._sources_at_once):
                    tasks.create_task(self._read_sources())
        finally:
            await self._cutter.aclose()

    async def _read_sources(self) -> None:
        clock, busy_until = asyncio.get_running_loop().time, 0.0
        while not self._stopping.is_set():
            if await patiently(self.read_one_source):
                busy_until = clock() + BUSY_SECONDS
                continue
            pause = CALM_SECONDS if clock() < busy_until else self._poll_seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def read_one_source(self) -> bool:
        """Lease a source that has something to read and read it for a turn; False where there was nothing to do."""
        for token, source_id in list(self._unreleased.items()):
            await self._release(source_id, token, 0.0)
        claimed = await self._database.fetch_one(
            _SQL["claim_source"],
            {
                "worker_id": self._worker_id,
                "lease_seconds": LEASE_SECONDS,
                "source_ids": None if self._source_ids is None else list(self._source_ids),
            },
        )
        if claimed is None:
            return False
        source_id, token = claimed
        rest = 0.0
        try:
            has_read, rest = await self._read(source_id, token)
        except NotFoundError:
            return True  # it was removed meanwhile
        except (psycopg.DatabaseError, ConfigurationError) as error:
            if isinstance(error, AWAY) and not isinstance(error, _OF_THE_SOURCE):
                raise
            rest = TROUBLED_SECONDS
            await self._tell_trouble(source_id, error)
            return False
        else:
            return has_read
        finally:
            await self._give_back(source_id, token, rest)

    async def _give_back(self, source_id: int, token: int, rest_seconds: float) -> None:
        """End the lease; later, where the database is away. Only then does it stand in `_unreleased`: the other sources
        that are read at the same time have leases too, and whoever comes next gives back what stands there."""
        try:
            await self._release(source_id, token, rest_seconds)
        except AWAY:
            self._unreleased[token] = source_id

    async def _release(self, source_id: int, token: int, rest_seconds: float) -> None:
        await self._database.fetch(
            _SQL["release_source"],
            {"record_source_id": source_id, "reader_token": token, "rest_seconds": rest_seconds},
        )
        self._unreleased.pop(token, None)

    async def _read(self, source_id: int, token: int) -> tuple[bool, float]:
        """Whether anything was read, and for how many seconds the source is to be left alone."""
        source = await record_source(self._database, source_id)
        if source.table is not None and not source.table.is_counted:
            await count_rows(self._database, source_id)  # whoever added it did not come to that
        pipeline = await pipeline_by_id(self._database, source.pipeline_id)
        reading = SourceReading(
            self._database,
            source,
            pipeline,
            self._cutter,
            reader_token=token,
            window_items=self._window_items,
            batch_rows=min(BATCH_ROWS, BATCH_ROWS if self._rows_left is None else max(1, self._rows_left)),
        )
        backfill = Backfill(self._database, reading, token)
        clock = asyncio.get_running_loop().time
        ends_at, calm_until = clock() + TURN_SECONDS, 0.0
        has_read = False
        while self.goes_on and clock() < ends_at:
            saved = None
            # Changes first: they overtake the backfill also where they wait to be read.
            if clock() >= calm_until and await reading.room():
                saved = await reading.read_changes()
                if saved is not None and not reading.has_more_changes:
                    calm_until = clock() + CALM_SECONDS
            if saved is None:
                saved = await backfill.step(self._rows_left)
            if saved is None:
                break
            has_read = True
            if self._rows_left is not None:
                read = saved.added + saved.changed + saved.deleted
                self._rows_left = max(0, self._rows_left - read)
            self._on_saved(source_id, saved)
        else:
            calm_until = 0.0
        if has_read and source.trouble is not None:
            await end_trouble(self._database, source_id)
        return has_read, max(0.0, calm_until - clock())

    async def _tell_trouble(self, source_id: int, error: Exception) -> None:
        trouble = _sentence(error)
        _log.error("source cannot be read", record_source_id=source_id, error=trouble)
        with contextlib.suppress(*AWAY):
            await set_trouble(self._database, source_id, trouble)


def _sentence(error: Exception) -> str:
    """What is wrong with a source, and what to do, without what its rows hold."""
    if isinstance(error, psycopg.Error):
        message = told(error)
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return f"{message}: GRANT SELECT on the table to the account that embedmill uses"
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            return f"{message}: `embedmill table alter` says what is to be read now, `table remove` ends it"
        return f"its rows cannot be read: {message}"
    return str(error)
