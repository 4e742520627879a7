"""What happens to rows between the moment they are looked at and the moment that is committed, and to sources whose
tables are changed under the reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from embedmill.app import App
from embedmill.core.documents import ChunkPlan, ParsedDocument
from embedmill.database.pipelines import Pipeline
from embedmill.errors import DocumentError
from embedmill.ports import CutDocument, Cutter, ProviderSpec
from embedmill.sources import reader as reader_module
from embedmill.sources import table_rows
from embedmill.sources.backfill import Backfill
from embedmill.sources.catalog import record_source
from embedmill.sources.reader import CALM_SECONDS, RecordReader
from embedmill.sources.reading import SourceReading
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.support import walks
from tests.support.audit import assert_books_balance
from tests.support.provider.handle import RunningProvider
from tests.support.queue_rows import register_worker
from tests.support.records import work_until_quiet


class CutterWithAnEvent:
    """Cuts as the real one does; the first time, something happens before it answers."""

    def __init__(self, cutter: Cutter, event: Callable[[], Awaitable[object]]) -> None:
        self._cutter = cutter
        self._event: Callable[[], Awaitable[object]] | None = event

    async def cut(
        self, documents: Sequence[ParsedDocument], plan: ChunkPlan, spec: ProviderSpec
    ) -> list[CutDocument | DocumentError]:
        if self._event is not None:
            event, self._event = self._event, None
            await event()
        return await self._cutter.cut(documents, plan, spec)

    async def aclose(self) -> None:
        await self._cutter.aclose()


async def add_notes(app: App, pipeline: Pipeline, key: str = "bigint", values: str = "") -> int:
    """A table of notes, with rows that stood there before it was added; the source's id."""
    await app.database.fetch(f"CREATE TABLE public.notes (id {key} PRIMARY KEY, body text, views integer)")
    values = values or "(1, 'One'), (2, 'Two'), (3, 'Three')"
    await app.database.fetch(f"INSERT INTO public.notes (id, body) VALUES {values}")
    added = await add_table(app.database, pipeline, "notes", TablePlan("$body"), actor="tester")
    return added.source.id


async def claim(app: App) -> int:
    rows = await app.database.fetch(
        "SELECT reader_token FROM embedmill.claim_record_source(gen_random_uuid(), 60, NULL)"
    )
    return int(rows[0][0])


async def texts(app: App) -> dict[str, str | None]:
    """What stands of each row."""
    rows = await app.database.fetch(
        "SELECT d.source_id, c.text FROM embedmill.knowledge_documents d "
        "  LEFT JOIN embedmill.knowledge_chunks c ON c.document_id = d.id"
    )
    assert len(dict(rows)) == len(rows)
    return dict(rows)


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        ("UPDATE public.notes SET views = 1", {"1": "One", "2": "Two", "3": "Three"}),
        ("UPDATE public.notes SET body = 'New' WHERE id = 2", {"1": "One", "2": "New", "3": "Three"}),
        ("DELETE FROM public.notes WHERE id = 2", {"1": "One", "3": "Three"}),
        ("UPDATE public.notes SET id = 9 WHERE id = 2", {"1": "One", "9": "Two", "3": "Three"}),
        ("TRUNCATE public.notes", {}),
    ],
)
async def test_a_backfill_neither_misses_nor_brings_back_a_row_that_is_written_meanwhile(
    app: App, pipeline: Pipeline, provider: RunningProvider, event: str, wanted: dict[str, str]
) -> None:
    source_id = await add_notes(app, pipeline)
    token = await claim(app)
    cutter = CutterWithAnEvent(app.cutter(), lambda: app.database.fetch(event))
    source = await record_source(app.database, source_id)
    reading = SourceReading(app.database, source, pipeline, cutter, reader_token=token)
    while await Backfill(app.database, reading, token).step() is not None:
        pass
    while await reading.read_changes() is not None or await walks.has_changes(app):
        await asyncio.sleep(CALM_SECONDS)
    await cutter.aclose()
    assert await texts(app) == wanted
    rows = await app.database.fetch("SELECT rows, documents FROM embedmill.record_sources")
    assert rows == [(len(wanted), len(wanted))]


async def test_a_reader_that_froze_and_was_given_up_writes_nothing(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source_id = await add_notes(app, pipeline)
    token = await claim(app)

    async def lose_the_lease() -> None:
        await app.database.fetch(
            "UPDATE embedmill.record_sources SET reader_deadline = now() - interval '1 s'"
        )
        assert await claim(app) > token

    cutter = CutterWithAnEvent(app.cutter(), lose_the_lease)
    source = await record_source(app.database, source_id)
    reading = SourceReading(app.database, source, pipeline, cutter, reader_token=token)
    await app.database.fetch("INSERT INTO public.notes VALUES (4, 'Four')")
    assert await reading.read_changes() is None
    assert await Backfill(app.database, reading, token).step() is None
    await cutter.aclose()
    assert await texts(app) == {}
    assert len(await app.database.fetch("SELECT id FROM embedmill.record_changes")) == 1


async def test_rows_are_loaded_by_their_bytes_and_not_only_by_their_number(
    app: App, pipeline: Pipeline, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_rows, "LOAD_BYTES", 10_000)
    values = ", ".join(f"({n}, 'Row {n}' || repeat(' and more', 330))" for n in range(20))
    source_id = await add_notes(app, pipeline, values=values)
    source = await record_source(app.database, source_id)
    assert source.table is not None
    rows = table_rows.TableRows(app.database, source, source.table)
    loaded = await rows.load([str(n) for n in range(20)])
    assert (len(loaded.rows), len(loaded.left)) == (3, 17)
    await app.database.fetch("UPDATE public.notes SET body = body || ' and an end' WHERE id < 10")
    await work_until_quiet(app)
    await app.database.fetch("UPDATE public.notes SET body = body || ' and another' WHERE id < 15")
    await work_until_quiet(app)
    found = await app.database.fetch("SELECT source_id, size_bytes FROM embedmill.knowledge_documents")
    assert len(found) == 20
    for key, size in found:
        lengths = await app.database.fetch("SELECT length(body) FROM public.notes WHERE id = %s", (int(key),))
        assert lengths == [(size,)]
    await assert_books_balance(app)


@pytest.mark.parametrize(
    ("key", "values", "update", "wanted"),
    [
        ("text", "('50%', 'a'), ('%s', 'b'), ('{}', 'c')", "SET body = 'x' WHERE id = '%s'", {"%s": "x"}),
        ("numeric", "(1.0, 'a'), (2.50, 'b')", "SET id = 1.00 WHERE id = 1", {"1.00": "a"}),
        ("varchar(9)", "('[1]', 'a'), ('\"', 'b'), ('', 'c')", "SET body = 'x' WHERE id = ''", {"": "x"}),
        ("timestamptz", "('2026-01-01 00:00+00', 'a')", "SET body = 'x'", {"2026-01-01 00:00:00+00": "x"}),
    ],
)
async def test_odd_keys_are_walked_and_followed(
    app: App, pipeline: Pipeline, provider: RunningProvider, key: str, values: str, update: str,
    wanted: dict[str, str],
) -> None:  # fmt: skip
    await add_notes(app, pipeline, key, values)
    await app.database.fetch("UPDATE embedmill.backfills SET batch_size = 1")
    await work_until_quiet(app)
    before = await texts(app)
    assert len(before) == values.count("(")
    await app.database.fetch(f"UPDATE public.notes {update}".replace("%", "%%"), ())
    await work_until_quiet(app)
    after = await texts(app)
    assert len(after) == len(before)
    assert {name: after.get(name) for name in wanted} == wanted


async def test_a_table_that_is_renamed_and_moved_is_read_on_and_one_that_lost_a_column_says_so(
    app: App, pipeline: Pipeline, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "TROUBLED_SECONDS", 0.0)
    await add_notes(app, pipeline)
    await work_until_quiet(app)
    await app.database.fetch("ALTER TABLE public.notes RENAME TO remarks")
    await app.database.fetch("CREATE SCHEMA elsewhere")
    await app.database.fetch("ALTER TABLE public.remarks SET SCHEMA elsewhere")
    await app.database.fetch("UPDATE elsewhere.remarks SET body = 'Moved' WHERE id = 1")
    await work_until_quiet(app)
    assert await texts(app) == {"1": "Moved", "2": "Two", "3": "Three"}

    await app.database.fetch("ALTER TABLE elsewhere.remarks RENAME COLUMN body TO text")
    await app.database.fetch("UPDATE elsewhere.remarks SET text = 'Unseen' WHERE id = 2")
    with pytest.raises(TimeoutError):
        await work_until_quiet(app, seconds=3)
    rows = await app.database.fetch("SELECT trouble FROM embedmill.record_sources")
    assert "body" in rows[0][0]
    await app.database.fetch("ALTER TABLE elsewhere.remarks RENAME COLUMN text TO body")
    await work_until_quiet(app)
    assert await texts(app) == {"1": "Moved", "2": "Unseen", "3": "Three"}
    assert await app.database.fetch("SELECT trouble FROM embedmill.record_sources") == [(None,)]


async def test_what_one_reader_of_a_worker_reads_another_does_not_take_away(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """A worker reads several sources at once; each keeps its lease however long it cuts."""
    source = await walks.add_notes(app, pipeline, 3)
    await walks.order(app, source)
    await app.database.fetch(
        "UPDATE embedmill.record_sources SET reader_token = NULL, reader_deadline = NULL"
    )
    others: list[bool] = []

    async def another_looks() -> None:
        if not others:
            others.append(False)
            others[0] = await reader.read_one_source()

    cutter = walks.WholeCutter(another_looks)
    worker_id = await register_worker(app.database)
    reader = RecordReader(app.database, cutter, worker_id=worker_id, source_ids=[source.id])
    assert await reader.read_one_source()
    assert others == [False], "the source is being read"
    rows = await app.database.fetch(
        "SELECT count(*) FROM embedmill.knowledge_documents WHERE record_source_id = %s", (source.id,)
    )
    assert rows == [(3,)]
