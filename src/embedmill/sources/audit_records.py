"""What an audit finds in a source of records: rows against their documents, both ways. Owns the two walks
and the repairs; whether something is at fault, audit_judging.py says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg

from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries
from embedmill.sources.audit_judging import Judging, Known, Suspect, act_on, one_row, suspect_of
from embedmill.sources.audit_kinds import Example
from embedmill.sources.audit_rows import audited_rows
from embedmill.sources.audit_work import AuditWork, Note, Step
from embedmill.sources.catalog import RecordSource

_SQL = load_queries("embedmill.sources", "audit.sql")

BATCH_ROWS = 500
_GONE = "the source's row is gone"


class SourceAudit:
    """The steps of one source."""

    def __init__(self, work: AuditWork, source: RecordSource, pipeline: Pipeline) -> None:
        self._work = work
        self._database = work.database
        self._source = source
        self._generation = pipeline.generation
        self._rows = audited_rows(work.database, source)
        self._judging = Judging(work.database, source, pipeline.generation, self._rows)

    def steps(self) -> list[tuple[str, Step]]:
        """By name, in order."""
        return [(f"rows:{self._source.id}", self.rows), (f"records:{self._source.id}", self.records)]

    def counting_steps(self) -> list[tuple[str, Step]]:
        """After everything else was set right."""
        return [(f"numbers:{self._source.id}", self.numbers)]

    async def rows(self, cursor: Any) -> AsyncIterator[None]:
        """Each row: whether it was read, and is embedded as it is now."""
        after: Sequence[str] | None = cursor
        while True:
            walked = await self._rows.walk(after, BATCH_ROWS)
            if not walked:
                return
            keys = [each.key for each in walked]
            known = await self._judging.standing(keys)
            left = keys
            while left:
                loaded = await self._rows.load(left)
                left = loaded.left
                suspects = [
                    suspect_of(row, known.get(row.key), has_column=self._has_column) for row in loaded.rows
                ]
                await self._settle([each for each in suspects if each is not None], after)
            after = list(walked[-1].columns)
            await self._work.save(after, looked=len(walked))
            yield

    async def records(self, cursor: Any) -> AsyncIterator[None]:
        """Each document: whether its row is there."""
        after = cursor or 0
        while True:
            documents = await self._database.fetch(
                _SQL["source_documents_after"],
                {"record_source_id": self._source.id, "after": after, "limit": BATCH_ROWS},
            )
            if not documents:
                return
            # What is there and not wanted, the walk over the rows has seen.
            present = await self._rows.wanted([row[1] for row in documents])
            suspects = [
                Suspect(key, "gone", None, Known(document_id, version, hashed and bytes(hashed)))
                for document_id, key, version, hashed in documents
                if key not in present
            ]
            await self._settle(suspects, after)
            after = documents[-1][0]
            await self._work.save(after, looked=len(documents))
            yield

    async def numbers(self, cursor: Any) -> AsyncIterator[None]:
        """How many rows and documents the source says it has."""
        kind = "job_counters_that_lie"
        wanted = {"record_source_id": self._source.id}
        try:
            row = await self._database.fetch_one(_SQL["source_numbers"], wanted)
        except psycopg.DataError:
            row = None  # its condition fails on some row: the step `watch` tells
        rows, documents = row if row else (None, None)
        if rows or documents:
            detail = f"rows {rows or 0:+}, documents {documents or 0:+} are missing"
            note: Note = (kind, Example("rows and documents", self._source.name, detail=detail), 1)
            if self._work.mends(kind):

                async def mend(connection: Connection) -> list[Note]:
                    reply = await connection.execute(_SQL["mend_source_numbers"], wanted)
                    found = await reply.fetchone()
                    return [note] if found and found[0] else []

                await self._work.mend(None, mend)
            else:
                self._work.note(kind, note[1])
        await self._work.save(None)
        yield

    @property
    def _has_column(self) -> bool:
        return self._source.table is not None and self._source.table.target_column is not None

    async def _settle(self, suspects: Sequence[Suspect], cursor: Any) -> None:
        """What is at fault is noted, and mended where that is wanted."""
        if not suspects:
            return
        try:
            await self._settle_all(suspects, cursor)
        except psycopg.DataError:
            # A key that this table can have no row of, since its type is another now.
            middle = len(suspects) // 2
            if middle:
                await self._settle(suspects[:middle], cursor)
                await self._settle(suspects[middle:], cursor)

    async def _settle_all(self, suspects: Sequence[Suspect], cursor: Any) -> None:
        notes = await self._judging.confirm(suspects)
        by_kind: dict[str, list[tuple[Suspect, Example]]] = {}
        for suspect, kind, example in notes:
            by_kind.setdefault(f"{kind}/{act_on(suspect)}", []).append((suspect, example))
        for name, found in by_kind.items():
            kind, _, act = name.partition("/")
            if self._work.mends(kind):
                await self._mend(kind, act, found, cursor)
            else:
                for _, example in found:
                    self._work.note(kind, example)

    async def _mend(self, kind: str, act: str, found: Sequence[tuple[Suspect, Example]], cursor: Any) -> None:
        suspects = [suspect for suspect, _ in found]
        examples = {suspect.key: example for suspect, example in found}

        async def mend(connection: Connection) -> list[Note]:
            if act == "read":
                keys = [suspect.key for suspect in suspects]
                table = self._source.table
                adopts = table is not None and table.adopts and kind == "source_never_queued"
                await connection.execute(
                    _SQL["begin_walk" if adopts else "look_again"],
                    {"record_source_id": self._source.id, "keys": keys},
                )
            else:
                keys = await self._change_documents(connection, act, suspects)
            return [(kind, examples[key], 1) for key in keys]

        await self._work.mend(cursor, mend)

    async def _change_documents(
        self, connection: Connection, act: str, suspects: Sequence[Suspect]
    ) -> list[str]:
        """Delete the documents, or have them embedded again: those of which nothing has changed, with the source held
        so that nobody saves meanwhile."""
        held = await one_row(connection, _SQL["hold_source"], {"record_source_id": self._source.id})
        if not (held and held[0]):
            return []
        keys = [suspect.key for suspect in suspects]
        ids = sorted(suspect.known.id for suspect in suspects if suspect.known)
        reply = await connection.execute(_SQL["lock_documents"], {"document_ids": ids})
        standing = {row[0]: Known(row[1], row[2], row[3] and bytes(row[3])) for row in await reply.fetchall()}
        all_wait, waiting = await one_row(
            connection, _SQL["waiting"], {"record_source_id": self._source.id, "keys": keys}
        )
        versions = await self._rows.versions(connection, keys)
        sure = [
            suspect
            for suspect in suspects
            if suspect.known is not None
            and standing.get(suspect.key) == suspect.known
            and versions.get(suspect.key) == suspect.version
            and suspect.key not in waiting
            and not all_wait
        ]
        ids = sorted(suspect.known.id for suspect in sure if suspect.known)
        if act == "embed":
            await connection.execute(
                _SQL["mend_unfilled"], {"generation_id": self._generation.id, "document_ids": ids}
            )
        else:
            await connection.execute(_SQL["delete_records"], {"document_ids": ids, "message": _GONE})
            removed = sum(each.known is not None and each.known.content_hash is not None for each in sure)
            await connection.execute(
                _SQL["count_documents"], {"record_source_id": self._source.id, "removed": removed}
            )
        return [suspect.key for suspect in sure]
