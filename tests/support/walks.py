"""Walks over tables, for tests: a table that is a source without any walk, a reader that walks it to the end. Must not
assert."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

from embedmill.app import App
from embedmill.core.documents import ChunkPlan, ParsedDocument
from embedmill.database.pipelines import Pipeline
from embedmill.errors import DocumentError
from embedmill.ports import CutDocument, Cutter, ProviderSpec
from embedmill.sources.backfill import Backfill
from embedmill.sources.backfill_orders import (
    BackfillOrder,
    BackfillSource,
    BackfillState,
    backfill_state,
    find_source,
    order_backfill,
)
from embedmill.sources.catalog import record_source
from embedmill.sources.reader import CALM_SECONDS, RecordReader
from embedmill.sources.reading import SourceReading
from embedmill.sources.saving import Saved
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table


async def add_notes(
    app: App,
    pipeline: Pipeline,
    rows: int = 0,
    *,
    condition: str | None = None,
    columns: tuple[str, ...] | None = None,
) -> BackfillSource:
    """public.notes (id bigint, body text, seen integer) with so many rows, as a source that nobody walks yet."""
    await run(
        app,
        "CREATE TABLE public.notes (id bigint PRIMARY KEY, body text NOT NULL, seen integer NOT NULL DEFAULT 0)",
        f"INSERT INTO public.notes (id, body) SELECT n, 'note ' || n FROM generate_series(1, {rows}) AS n",
    )
    return await add_source(app, pipeline, "public.notes", "$body", condition=condition, columns=columns)


async def add_source(
    app: App,
    pipeline: Pipeline,
    table: str,
    template: str,
    *,
    condition: str | None = None,
    columns: tuple[str, ...] | None = None,
) -> BackfillSource:
    plan = TablePlan(template=template, condition=condition, columns=columns)
    await add_table(app.database, pipeline, table, plan, backfills=False, actor="test")
    return await find_source(app.database, pipeline.tenant_id, table)


async def run(app: App, *statements: str) -> None:
    async with app.database.connection() as connection:
        for statement in statements:
            await connection.execute(statement.encode())


async def order(app: App, source: BackfillSource, what: BackfillOrder | None = None, **options: bool) -> bool:
    tenant_id = await app.tenant_id()
    chosen = what or BackfillOrder()
    return await order_backfill(app.database, tenant_id, source, chosen, actor="test", **options)


class WholeCutter:
    """Cuts nothing: each text is one chunk, counted in words. `before` is awaited with each request."""

    def __init__(self, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.texts: list[str] = []
        self._before = before

    async def cut(
        self, documents: Sequence[ParsedDocument], plan: ChunkPlan, spec: ProviderSpec
    ) -> list[CutDocument | DocumentError]:
        from embedmill.core.documents import Chunk

        del plan, spec
        if self._before is not None:
            await self._before()
        self.texts += [document.text for document in documents]
        return [
            CutDocument(each, (Chunk(0, 0, len(each.text), each.text, len(each.text.split())),))
            if each.text.strip()
            else DocumentError("empty", "there is no text")
            for each in documents
        ]

    async def whole_plan(self, spec: ProviderSpec) -> ChunkPlan:
        return ChunkPlan(spec.max_tokens_per_input or 8_000, 0, is_whole=True)

    async def aclose(self) -> None:
        return None


async def lease(app: App, source: BackfillSource) -> int:
    """A lease on a source, whatever there is to read."""
    rows = await app.database.fetch(
        "UPDATE embedmill.record_sources SET reader_id = %s, reader_token = nextval('embedmill.lease_tokens'), "
        "       reader_deadline = now() + interval '1 hour' WHERE id = %s RETURNING reader_token",
        (uuid4(), source.id),
    )
    return int(rows[0][0])


async def walk_of(
    app: App, source: BackfillSource, cutter: Cutter, *, window_items: int = 20_000, stride_rows: int = 5_000
) -> Backfill:
    """The walk of a source under a new lease."""
    from embedmill.database.pipelines import pipeline_by_id

    token = await lease(app, source)
    reading = SourceReading(
        app.database,
        await record_source(app.database, source.id),
        await pipeline_by_id(app.database, source.pipeline_id),
        cutter,
        reader_token=token,
        window_items=window_items,
    )
    return Backfill(app.database, reading, token, stride_rows=stride_rows)


async def walk(app: App, source: BackfillSource, cutter: Cutter | None = None, **options: int) -> Saved:
    """Step until nothing can be done; nothing is embedded."""
    backfill = await walk_of(app, source, cutter or WholeCutter(), **options)
    total = Saved()
    while (saved := await backfill.step()) is not None:
        total += saved
    return total


async def read_all(app: App, source: BackfillSource, cutter: Cutter, worker_id: UUID | None = None) -> None:
    """Changes and walk, as a worker's reader does it, until there is nothing; edits of rows that were read a moment ago
    are waited for."""
    await app.database.fetch(
        "UPDATE embedmill.record_sources SET reader_id = NULL, reader_token = NULL, reader_deadline = NULL"
    )
    reader = RecordReader(app.database, cutter, worker_id=worker_id or uuid4(), source_ids=[source.id])
    while await reader.read_one_source() or await has_changes(app):
        await asyncio.sleep(CALM_SECONDS)


async def has_changes(app: App) -> bool:
    """Whether changes wait to be read."""
    return (await app.database.fetch("SELECT EXISTS (SELECT FROM embedmill.record_changes)"))[0][0] is True


async def state_of(app: App, source: BackfillSource) -> BackfillState:
    return await backfill_state(app.database, source)


async def documents(app: App) -> dict[str, str | None]:
    """The text of each record's document, by its key."""
    rows: list[tuple[Any, ...]] = await app.database.fetch(
        "SELECT d.source_id, t.text FROM embedmill.knowledge_documents d "
        "  LEFT JOIN embedmill.knowledge_document_texts t ON t.document_id = d.id WHERE d.record_source_id <> 0"
    )
    return dict(rows)
