"""Builds generations beside the live one, and keeps those current that have another plan of chunks. Owns the walk over
the documents and the cutting of their stored texts; must not embed (whatever it enqueues is embedded as anything is).

Any number of builders may run at the same time, and any may die: each step is one short transaction that begins where
the last one ended, wherever it ran. No transaction is open while text is cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import psycopg
import structlog

from embedmill.database.chunk_rows import DocumentChunks, replace_chunks
from embedmill.database.patience import AWAY, patiently
from embedmill.database.pipelines import Pipeline, pipeline_of_generation
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries
from embedmill.embed.stored_text import StaleDocument
from embedmill.errors import ConfigurationError, DocumentError, NotFoundError
from embedmill.ports import CutDocument, Cutter

_SQL = load_queries("embedmill.embed", "building.sql")
_log = structlog.get_logger(__name__)

# Items and marks of one build that wait at most: a backlog of ten million documents is never ten million rows.
WINDOW = 2_000
# Documents of one step of the walk, and of one cutting.
DOCUMENTS_PER_STEP = 500
DOCUMENTS_PER_CUT = 200
# Somebody else prunes the generation, or holds a document: the next round finds it as it is then.
_RACES = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UndefinedTable,
    NotFoundError,
)

_Cut = tuple[StaleDocument, CutDocument | DocumentError | None]


class GenerationBuilder:
    """Goes on with whatever is unfinished, of all pipelines or of one, until `stop()`."""

    def __init__(
        self,
        database: Database,
        cutter: Cutter,
        *,
        pipeline_id: int | None = None,
        poll_seconds: float = 1.0,
        window: int = WINDOW,
    ) -> None:
        """`cutter` is closed at the end."""
        self._database = database
        self._cutter = cutter
        self._pipeline_id = pipeline_id
        self._poll_seconds = poll_seconds
        self._window = window
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """The step that is under way is finished."""
        self._stopping.set()

    async def run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    goes_on = await self.advance()
                except _RACES as error:
                    _log.info("a build waits for others", reason=str(error).strip())
                    goes_on = False
                except AWAY:
                    goes_on = False
                if not goes_on:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), self._poll_seconds)
        finally:
            await self._cutter.aclose()

    async def advance(self) -> bool:
        """A step of each unfinished build and set of chunks; whether there is more to do at once."""
        goes_on = False
        asked = {"pipeline_id": self._pipeline_id}
        for (generation_id,) in await self._database.fetch(_SQL["unfinished_builds"], asked):
            goes_on |= await self._walk(generation_id)
        for pipeline_id, chunk_set, generation_id in await self._database.fetch(_SQL["stale_sets"], asked):
            if self._stopping.is_set():
                break
            goes_on |= await self._cut(pipeline_id, chunk_set, generation_id)
        return goes_on

    async def _walk(self, generation_id: int) -> bool:
        row = await self._database.fetch_one(
            _SQL["build_step"],
            {"generation_id": generation_id, "window": self._window, "documents": DOCUMENTS_PER_STEP},
        )
        return row is not None and row[0] == "walked"

    async def _cut(self, pipeline_id: int, chunk_set: int, generation_id: int) -> bool:
        """Some documents of a set, from their stored text to their items; whether others may wait."""
        async with self._lock(pipeline_id, chunk_set) as is_ours:
            if not is_ours:
                return False
            rows = await self._database.fetch(
                _SQL["stale_documents"],
                {"pipeline_id": pipeline_id, "chunk_set": chunk_set, "limit": DOCUMENTS_PER_CUT},
            )
            stale = [StaleDocument(*row) for row in rows]
            pipeline = await pipeline_of_generation(self._database, generation_id)
            try:
                cuts = await self._cut_texts(pipeline, stale)
            except ConfigurationError as error:
                await self._give_up(pipeline, str(error))
                return False
            await patiently(partial(self._save, pipeline, cuts))
        return bool(stale)

    async def _cut_texts(self, pipeline: Pipeline, stale: Sequence[StaleDocument]) -> list[_Cut]:
        spec = pipeline.generation.spec
        cuts: list[_Cut] = [(document, None) for document in stale if document.body is None]
        for is_whole in (False, True):
            some = [each for each in stale if each.body is not None and each.is_whole is is_whole]
            if some:
                plan = await self._cutter.whole_plan(spec) if is_whole else pipeline.chunk_plan
                cuts += zip(
                    some, await self._cutter.cut([each.parsed() for each in some], plan, spec), strict=True
                )
        return cuts

    async def _save(self, pipeline: Pipeline, cuts: Sequence[_Cut]) -> None:
        """Chunks in place of older ones, and what lacks a vector enqueued: of documents that are still the same."""
        chunk_set = pipeline.generation.chunk_set
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                _SQL["hold_cut_documents"],
                {
                    "document_ids": [document.document_id for document, _ in cuts],
                    "versions": [document.version for document, _ in cuts],
                    "chunk_set": chunk_set,
                },
            )
            held = {row[0] for row in await cursor.fetchall()}
            ours = [(document, cut) for document, cut in cuts if document.document_id in held]
            for source in Counter(document.record_source_id for document, _ in ours):
                await replace_chunks(
                    connection,
                    pipeline,
                    [_chunks(each, cut, chunk_set) for each, cut in ours if each.record_source_id == source],
                    record_source_id=source,
                )
            await self._bury(connection, pipeline, ours)
            await connection.execute(
                _SQL["end_cut"],
                {"pipeline_id": pipeline.id, "chunk_set": chunk_set, "document_ids": sorted(held)},
            )

    @staticmethod
    async def _bury(connection: Connection, pipeline: Pipeline, cuts: Sequence[_Cut]) -> None:
        for document, cut in cuts:
            if isinstance(cut, DocumentError) and cut.reason not in ("empty", "no_text"):
                await connection.execute(
                    _SQL["bury_cut"],
                    {
                        "pipeline_id": pipeline.id,
                        "chunk_set": pipeline.generation.chunk_set,
                        "document_id": document.document_id,
                        "reason": cut.reason,
                        "message": str(cut),
                    },
                )

    async def _give_up(self, pipeline: Pipeline, reason: str) -> None:
        """Nothing can be cut here: a part is missing, or the plan fits no text. A build says so; what is to be kept
        current waits for another worker, or for the part."""
        _log.error("texts cannot be cut", pipeline=pipeline.name, error=reason)
        await self._database.fetch(
            _SQL["stop_builds"],
            {"pipeline_id": pipeline.id, "chunk_set": pipeline.generation.chunk_set, "reason": reason},
        )

    @asynccontextmanager
    async def _lock(self, pipeline_id: int, chunk_set: int) -> AsyncIterator[bool]:
        """Whether we are the one who cuts this set; it ends with our session, if not before."""
        key = {"pipeline_id": str(pipeline_id), "chunk_set": chunk_set}
        async with self._database.session() as connection:
            cursor = await connection.execute(_SQL["try_lock_cutting"], key)
            row = await cursor.fetchone()
            yield bool(row and row[0])


def _chunks(
    document: StaleDocument, cut: CutDocument | DocumentError | None, chunk_set: int
) -> DocumentChunks:
    if isinstance(cut, CutDocument):
        return DocumentChunks(document.document_id, chunk_set, cut.chunks, cut.document.places)
    return DocumentChunks(document.document_id, chunk_set, ())
