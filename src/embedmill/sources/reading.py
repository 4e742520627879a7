"""Reads one source: its changed rows, then the rows of its backfill, batch by batch. Owns the step from a key to a
committed document; must not decide when it runs (reader.py) nor embed.

    take     change rows, or the next keys of the walk
    load     the rows' present state, and what their documents hold       rows.py
    cut      what is new or changed, in the limited process; no transaction is open
    save     documents, chunks, items and counts: one transaction         saving.py
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from embedmill.core.documents import ParsedDocument
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.ports import CutDocument, Cutter
from embedmill.sources.catalog import RecordSource
from embedmill.sources.rows import Row, Rows
from embedmill.sources.saving import (
    OutdatedError,
    Reading,
    ReadRow,
    RecordSaving,
    Saved,
    Standing,
    content_hash,
)
from embedmill.sources.shard_rows import ShardRows
from embedmill.sources.table_rows import TableRows

_SQL = load_queries("embedmill.sources", "reading.sql")

BATCH_ROWS = 500
# More characters than this go to the parsing process in several requests.
BATCH_CHARACTERS = 4_000_000
# What is read ahead of the embedding: enough to fill the largest calls in flight, and no table as a queue.
WINDOW_ITEMS = 20_000
# A row that was read is not read again before this: edited without a pause, it would be embedded without a pause.
STEADY_SECONDS = 0.4
# A batch whose documents others keep changing is read anew so often before it is left for later.
ATTEMPTS = 5


class Look(msgspec.Struct, frozen=True):
    """Rows as they were seen: `keys` of which, `versions` of those that exist. `left` had no room."""

    reading: Reading
    keys: list[str]
    left: list[str]
    versions: dict[str, str]


class SourceReading:
    """Steps of one leased source. Each returns what it saved, or None where there was nothing to do or the lease is
    over."""

    def __init__(
        self,
        database: Database,
        source: RecordSource,
        pipeline: Pipeline,
        cutter: Cutter,
        *,
        reader_token: int | None,
        window_items: int = WINDOW_ITEMS,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        """Without a `reader_token` (an audit's repair) whatever is read is written beside the source's reader. At most
        `window_items` are made to wait, and about `batch_rows` are read at a time."""
        self.window_items = window_items
        self._batch_rows = batch_rows
        self.source = source
        self.saving = RecordSaving(database, source, pipeline)
        self._database = database
        self._pipeline = pipeline
        self._cutter = cutter
        self._reader_token = reader_token
        self._rows: Rows = (
            ShardRows(database, source) if source.table is None else TableRows(database, source, source.table)
        )
        self._change_rows = 16  # are asked for at once: as many as are likely to fill a batch
        self.has_more_changes = False
        """Whether changes were left, when they were read last."""

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    async def room(self) -> int:
        """How many more items may wait."""
        row = await self._database.fetch_one(
            _SQL["count_waiting"], {"generation_id": self._pipeline.generation.id, "most": self.window_items}
        )
        return max(0, self.window_items - int(row[0])) if row else self.window_items

    async def read_changes(self) -> Saved | None:
        """One batch of what has changed."""
        changes = await self._database.fetch(
            _SQL["next_changes"],
            {
                "record_source_id": self.source.id,
                "pipeline_id": self._pipeline.id,
                "source_type": self.source.name,
                "steady_seconds": STEADY_SECONDS,
                "limit": self._change_rows,
            },
        )
        if not changes:
            return None
        if not changes[0][2]:
            self.has_more_changes = True
            return await self._read_sweeping_change(changes[0][0], is_truncation=changes[0][1] == "T")
        change_ids: list[int] = []
        keys: dict[str, None] = {}
        for change_id, _, changed in changes:
            if not changed or (keys and len(keys) + len(changed) > self._batch_rows):
                break
            change_ids.append(change_id)
            keys.update(dict.fromkeys(changed))
        self.has_more_changes = len(change_ids) < len(changes) or len(changes) == self._change_rows
        is_filled = len(change_ids) < len(changes)
        self._change_rows = min(
            BATCH_ROWS, max(2, 2 * len(change_ids) if is_filled else 4 * self._change_rows)
        )
        return await self.read(list(keys), change_ids=change_ids, priority=self.source.priority)

    async def read(
        self, keys: Sequence[str], *, change_ids: Sequence[int] = (), priority: str | None = None
    ) -> Saved | None:
        """Bring the documents of these rows to the rows' present state."""
        saved, left = Saved(), list(keys)
        while True:
            done = await self._look_and_save(left, change_ids, priority)
            if done is None:
                return None
            part, left = done
            saved += part
            if not left:
                return saved

    async def _look_and_save(
        self, keys: Sequence[str], change_ids: Sequence[int], priority: str | None
    ) -> tuple[Saved, list[str]] | None:
        """Save what is seen of these rows, and which of them there was no room for: the change rows go with the last of
        them. It is looked at again where documents changed meanwhile."""
        for _ in range(ATTEMPTS):
            look = await self.look(keys)
            with contextlib.suppress(OutdatedError):
                async with self._database.transaction() as connection:
                    if not await self.saving.hold(connection, self._reader_token):
                        return None
                    reading = look.reading
                    if self._reader_token is None:
                        reading = await self.of_this_moment(connection, look)
                    told = [] if look.left else change_ids
                    saved = await self.saving.save(
                        connection,
                        msgspec.structs.replace(reading, change_ids=told),
                        priority=priority or self.source.priority,
                    )
                    return saved, look.left
        return None

    async def look(self, keys: Sequence[str]) -> Look:
        """Load rows, as many as there is room for, and cut what is new. No transaction is open at the end."""
        # The documents first: what changes after that is found out when they are locked.
        standing = await self.saving.standing(keys)
        loaded = await self._rows.load(keys)
        left = set(loaded.left)
        wanted = [row for row in loaded.rows if row.is_wanted]
        read = await self._cut([self._judge(row, standing.get(row.key)) for row in wanted])
        found = {row.key for row in wanted}
        seen = [key for key in keys if key not in left]
        gone = [key for key in seen if key not in found and key in standing]
        kept = {key: standing[key] for key in seen if key in standing}
        unwanted = [row.key for row in loaded.rows if not row.is_wanted]
        return Look(
            Reading(read, kept, gone, unwanted=unwanted),
            seen,
            loaded.left,
            {row.key: row.version for row in loaded.rows},
        )

    async def of_this_moment(self, connection: Connection, look: Look) -> Reading:
        """For whoever was not told of these rows by changes, in a transaction that holds the source: only the rows
        that still are as they were seen, so that nothing older overwrites what was saved meanwhile and nothing comes
        back that is gone. The others are noted as changed: they are read soon, as they are then."""
        present = await self._rows.versions(connection, look.keys)
        same = {key for key in look.keys if present.get(key) == look.versions.get(key)}
        changed = [key for key in look.keys if key not in same]
        if changed:
            await connection.execute(
                _SQL["note_changed"], {"record_source_id": self.source.id, "keys": changed}
            )
        reading = look.reading
        return msgspec.structs.replace(
            reading,
            rows=[read for read in reading.rows if read.row.key in same],
            standing={key: each for key, each in reading.standing.items() if key in same},
            gone=[key for key in reading.gone if key in same],
        )

    @property
    def rows(self) -> Rows:
        return self._rows

    @staticmethod
    def _judge(row: Row, standing: Standing | None) -> ReadRow:
        """Whether a row is to be cut, or stands already."""
        hashed = content_hash(row.content)
        is_unchanged = (
            standing is not None
            and standing.content_hash == hashed
            and (standing.error_reason == (row.refusal and row.refusal.reason))
        )
        return ReadRow(row, hashed, refusal=row.refusal, is_unchanged=is_unchanged)

    async def _cut(self, rows: list[ReadRow]) -> list[ReadRow]:
        """Cut what has no chunks yet, in requests of bounded size."""
        wanted = [at for at, read in enumerate(rows) if not read.is_unchanged and read.refusal is None]
        spec, plan = self._pipeline.generation.spec, self._pipeline.chunk_plan
        if wanted and self.source.table is not None and self.source.table.target_column is not None:
            plan = await self._cutter.whole_plan(spec)  # a column holds one vector
        while wanted:
            characters = 0
            part: list[int] = []
            while wanted and (not part or characters + len(rows[wanted[0]].row.content) <= BATCH_CHARACTERS):
                characters += len(rows[wanted[0]].row.content)
                part.append(wanted.pop(0))
            texts = [ParsedDocument(rows[at].row.content, "text/plain") for at in part]
            cuts = await self._cutter.cut(texts, plan, spec)
            for at, cut in zip(part, cuts, strict=True):
                if isinstance(cut, CutDocument):
                    rows[at] = msgspec.structs.replace(rows[at], cut=cut)
                else:
                    rows[at] = msgspec.structs.replace(rows[at], refusal=cut)
        return rows

    async def _read_sweeping_change(self, change_id: int, *, is_truncation: bool) -> Saved | None:
        """A change that names no keys: a truncation, or one that a trigger could not read. Documents whose rows are not
        there go; after the latter a walk looks at all the others."""
        after, deleted = 0, 0
        while True:
            documents = await self._database.fetch(
                _SQL["documents_after"],
                {"record_source_id": self.source.id, "after": after, "limit": BATCH_ROWS},
            )
            if not documents:
                break
            after = documents[-1][0]
            keys = [row[1] for row in documents]
            present = await self._rows.wanted(keys)
            saved = await self.read([key for key in keys if key not in present])
            if saved is None:
                return None
            deleted += saved.deleted
        async with self._database.transaction() as connection:
            if not await self.saving.hold(connection, self._reader_token):
                return None
            taken = _SQL["take_truncation" if is_truncation else "take_blind_change"]
            await connection.execute(taken, {"record_source_id": self.source.id, "change_id": change_id})
        return Saved(deleted=deleted)
