"""What an audit finds in a pipeline: vectors against chunks, chunks against items, jobs and counters against both. Owns
the walk over vectors and documents; must not look at users' rows (audit_records.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg

from embedmill.database.pool import Connection
from embedmill.database.queries import load_queries
from embedmill.sources.audit_kinds import Example
from embedmill.sources.audit_work import AuditWork, Note, Step

_SQL = load_queries("embedmill.sources", "audit.sql")

BATCH_VECTORS = 5_000
BATCH_DOCUMENTS = 500
PIECE_CHUNKS = 500
"""How many chunks a part of a document has (functions/35_documents.sql)."""

_FAULTS = {
    "counts": "says {said}, and has {true} (chunks, embedded, failed)",
    "stuck": "says embedding_in_progress, and nothing is left to wait for",
    "unparsed": "waits for a parser, and none will come to it",
}

_Piece = tuple[str, int, int, int, str, str]
"""Its kind, document, part, how many chunks, and the document's source."""


class PipelineAudit:
    """The steps of one pipeline, or of the documents of one of its sources."""

    def __init__(self, work: AuditWork, pipeline_id: int) -> None:
        self._work = work
        self._database = work.database
        self._pipeline_id = pipeline_id
        self._source_id = work.scope.record_source_id

    async def steps(self) -> list[tuple[str, Step]]:
        """By name, in order."""
        found: list[tuple[str, Step]] = []
        if self._source_id is None:
            found += [(f"vectors:{each}", self._vectors_step(each)) for each in await self._generations()]
        return [*found, (f"documents:{self._pipeline_id}", self.documents)]

    def counting_steps(self) -> list[tuple[str, Step]]:
        """After everything else was set right."""
        return [(f"coverage:{self._pipeline_id}", self.coverage)]

    async def _generations(self) -> list[int]:
        rows = await self._database.fetch(_SQL["generations"], {"pipeline_id": self._pipeline_id})
        return [row[0] for row in rows]

    def _vectors_step(self, generation_id: int) -> Step:
        async def vectors(cursor: Any) -> AsyncIterator[None]:
            async for _ in self._vectors(generation_id, cursor):
                yield

        return vectors

    async def _vectors(self, generation_id: int, cursor: Any) -> AsyncIterator[None]:
        """Vectors whose chunk is gone."""
        after = cursor or 0
        while True:
            try:
                last, looked, lost = await self._one(
                    _SQL["vectors"], generation_id=generation_id, after=after, limit=BATCH_VECTORS
                )
            except psycopg.errors.UndefinedTable:
                return  # the generation was dropped meanwhile
            if last is None:
                return
            if lost:
                await self._note_lost(generation_id, lost, after)
            after = last
            await self._work.save(after, looked=looked)
            yield

    async def _note_lost(self, generation_id: int, lost: Sequence[int], cursor: int) -> None:
        def examples(some: Sequence[int]) -> list[Note]:
            return [
                (
                    "vector_without_source",
                    Example(str(each), detail=f"chunk, in generation {generation_id}"),
                    1,
                )
                for each in some
            ]

        if not self._work.mends("vector_without_source"):
            for kind, example, count in examples(lost):
                self._work.note(kind, example, count=count)
            return

        async def delete(connection: Connection) -> list[Note]:
            (deleted,) = await _row(
                connection, _SQL["mend_vectors"], generation_id=generation_id, chunk_ids=lost
            )
            return examples(lost[:deleted])

        await self._work.mend(cursor, delete)

    async def documents(self, cursor: Any) -> AsyncIterator[None]:
        """Each document: whose source is gone, what it lacks, what its job says."""
        after = list(cursor or ("", ""))
        statement = _SQL["documents" if self._source_id is None else "source_documents"]
        while True:
            found = await self._database.fetch(
                statement,
                {
                    "pipeline_id": self._pipeline_id,
                    "record_source_id": self._source_id,
                    "after_type": after[0],
                    "after_id": after[1],
                    "limit": BATCH_DOCUMENTS,
                },
            )
            if not found:
                return
            ids = sorted(row[2] for row in found)
            orphans = sorted(row[2] for row in found if row[3])
            if orphans:
                await self._orphans(orphans, after)
            for generation_id in await self._generations():
                await self._pieces(generation_id, ids, after)
            await self._jobs(ids, after)
            after = [found[-1][0], found[-1][1]]
            await self._work.save(after, looked=len(ids))
            yield

    async def _pieces(self, generation_id: int, ids: Sequence[int], cursor: Any) -> None:
        found = await self._find_pieces(generation_id, ids)
        if not found:
            return
        suspects = sorted({piece[1] for piece in found})
        mended = {kind for kind in {piece[0] for piece in found} if self._work.mends(kind)}
        if mended:
            await self._mend_pieces(generation_id, suspects, found, cursor)
            return
        # A second look: what was at work on them may have gone on since.
        known = {piece[:3] for piece in found}
        for piece in await self._find_pieces(generation_id, suspects):
            if piece[:3] in known:
                self._work.note(piece[0], _example(piece, generation_id))

    async def _mend_pieces(
        self, generation_id: int, suspects: Sequence[int], found: Sequence[_Piece], cursor: Any
    ) -> None:
        known = {piece[:3]: piece for piece in found}

        async def mend(connection: Connection) -> list[Note]:
            reply = await connection.execute(
                _SQL["mend_pieces"], {"generation_id": generation_id, "document_ids": suspects}
            )
            mended = [known.get(tuple(row)) for row in await reply.fetchall()]
            return [(piece[0], _example(piece, generation_id), 1) for piece in mended if piece is not None]

        await self._work.mend(cursor, mend)

    async def _find_pieces(self, generation_id: int, ids: Sequence[int]) -> list[_Piece]:
        try:
            rows = await self._database.fetch(
                _SQL["pieces"], {"generation_id": generation_id, "document_ids": list(ids)}
            )
        except psycopg.errors.UndefinedTable:
            return []  # the generation was dropped meanwhile
        return [(row[0], row[1], row[2], row[3], row[4], row[5]) for row in rows]

    async def _jobs(self, ids: Sequence[int], cursor: Any) -> None:
        found = await self._find_jobs(ids)
        if not found:
            return
        kind = "job_counters_that_lie"
        suspects = sorted({row[1] for row in found})
        if self._work.mends(kind):

            async def mend(connection: Connection) -> list[Note]:
                (count,) = await _row(
                    connection, _SQL["mend_jobs"], pipeline_id=self._pipeline_id, document_ids=suspects
                )
                return [(kind, _job_example(row), 1) for row in found[:count]]

            await self._work.mend(cursor, mend)
            return
        known = {(row[0], row[4]) for row in found}
        for row in await self._find_jobs(suspects):
            if (row[0], row[4]) in known:
                self._work.note(kind, _job_example(row))

    async def _find_jobs(self, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        return await self._database.fetch(
            _SQL["jobs"], {"pipeline_id": self._pipeline_id, "document_ids": list(ids)}
        )

    async def _orphans(self, ids: Sequence[int], cursor: Any) -> None:
        kind = "vector_without_source"
        if not self._work.mends(kind):
            for document_id in ids:
                self._work.note(
                    kind, Example(str(document_id), document_id=document_id, detail="its source was removed")
                )
            return

        async def delete(connection: Connection) -> list[Note]:
            reply = await connection.execute(_SQL["lock_orphans"], {"document_ids": list(ids)})
            rows = await reply.fetchall()
            await connection.execute(
                _SQL["delete_records"],
                {"document_ids": [row[0] for row in rows], "message": "its source was removed"},
            )
            return [
                (kind, Example(row[2], row[1], document_id=row[0], detail="its source was removed"), 1)
                for row in rows
            ]

        await self._work.mend(cursor, delete)

    async def coverage(self, cursor: Any) -> AsyncIterator[None]:
        """The counters of coverage: one statement for each generation, which counts all of its chunks."""
        kind = "job_counters_that_lie"
        wanted = {"pipeline_id": self._pipeline_id, "record_source_id": self._source_id}
        rows = await self._database.fetch(_SQL["coverage"], wanted)
        notes = [
            (
                kind,
                Example(
                    f"coverage of generation {generation_id}",
                    None if source_id == 0 else f"source {source_id}",
                    detail=f"chunks {chunks:+}, embedded {embedded:+}, unembeddable {unembeddable:+} are missing",
                ),
                1,
            )
            for generation_id, source_id, chunks, embedded, unembeddable in rows
        ]
        if notes and self._work.mends(kind):

            async def mend(connection: Connection) -> list[Note]:
                (count,) = await _row(connection, _SQL["mend_coverage"], **wanted)
                return notes[:count]

            await self._work.mend(None, mend)
        else:
            for _, example, _ in notes:
                self._work.note(kind, example)
        await self._work.save(None)
        yield

    async def _one(self, statement: Any, **parameters: Any) -> tuple[Any, ...]:
        row = await self._database.fetch_one(statement, parameters)
        return row if row is not None else ()


async def _row(connection: Connection, statement: Any, **parameters: Any) -> tuple[Any, ...]:
    row = await (await connection.execute(statement, parameters)).fetchone()
    return row if row is not None else (0,)


def _example(piece: _Piece, generation_id: int) -> Example:
    kind, document_id, part, chunks, source_type, source_id = piece
    first = part * PIECE_CHUNKS
    how = "are of an older text" if kind == "vector_of_an_older_text" else "lack their vector"
    detail = f"{chunks} of the chunks from {first} on {how} in generation {generation_id}"
    return Example(source_id, source_type, document_id, detail)


def _job_example(row: tuple[Any, ...]) -> Example:
    job_id, document_id, source_type, source_id, fault, said, true = row
    words = _FAULTS[fault].format(said=tuple(said), true=tuple(true))
    return Example(f"job {job_id}", f"{source_type} {source_id}", document_id, words)
