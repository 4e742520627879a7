"""What a change to a row of a table costs: what is elsewhere nothing, a paragraph its chunks, a row that is edited
again and again its last text and little more."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.reader import CALM_SECONDS, RecordReader
from embedmill.sources.reading import STEADY_SECONDS
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table
from tests.support.audit import assert_books_balance
from tests.support.prose import paragraphs
from tests.support.provider.handle import RunningProvider
from tests.support.records import is_quiet, reading_worker, work_until_quiet
from tests.support.work import DIMENSIONS, stand_in_pipeline

ARTICLES = (
    "CREATE TABLE public.articles (id bigint PRIMARY KEY, title text, body text, views integer DEFAULT 0)"
)


async def add_articles(app: App, pipeline: Pipeline) -> None:
    await app.database.fetch(ARTICLES)
    await add_table(app.database, pipeline, "articles", TablePlan("$title\n\n$body"), actor="tester")


async def set_body(app: App, number: int, body: str) -> None:
    await app.database.fetch(
        "INSERT INTO public.articles (id, body) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        (number, body),
    )


async def chunks_of(app: App, number: int) -> list[str]:
    rows = await app.database.fetch(
        "SELECT c.text FROM embedmill.knowledge_chunks c JOIN embedmill.knowledge_documents d ON d.id = c.document_id "
        " WHERE d.source_id = %s ORDER BY c.ordinal",
        (str(number),),
    )
    return [row[0] for row in rows]


async def test_an_update_of_an_unrelated_column_pays_nothing_and_is_not_even_noted(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_articles(app, pipeline)
    await app.database.fetch(
        "INSERT INTO public.articles SELECT n, 'Title ' || n, 'Body ' || n FROM generate_series(1, 30) AS n"
    )
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == 30
    await app.database.fetch("UPDATE public.articles SET views = views + 1")
    await app.database.fetch("UPDATE public.articles SET body = body, title = title")
    assert await app.database.fetch("SELECT * FROM embedmill.record_changes") == []
    await app.database.fetch("UPDATE public.articles SET views = 0, body = 'Another' WHERE id = 7")
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == 31
    await assert_books_balance(app)


async def test_an_edited_paragraph_of_a_row_of_200_chunks_pays_for_at_most_three(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_articles(app, pipeline)
    parts = paragraphs(700, seed=3).split("\n\n")
    await set_body(app, 1, "\n\n".join(parts))
    await work_until_quiet(app)
    assert len(await chunks_of(app, 1)) >= 200
    provider.forget_counts()
    parts[350] += " And one more sentence."
    await set_body(app, 1, "\n\n".join(parts))
    await work_until_quiet(app)
    assert 1 <= provider.stats()["inputs_paid"] <= 3
    await assert_books_balance(app)


@pytest.mark.parametrize("latency_ms", [0, 400])
async def test_a_row_edited_fifty_times_in_a_second_is_paid_for_a_few_times_with_its_last_text(
    app: App, pipeline: Pipeline, provider: RunningProvider, latency_ms: int
) -> None:
    provider.configure(latency_ms=latency_ms)
    await add_articles(app, pipeline)
    await work_until_quiet(app)
    provider.forget_counts()
    worker = reading_worker(app)
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run())
        for edit in range(50):
            await set_body(app, 1, f"What was said at last, number {edit}.")
            await asyncio.sleep(0.02)
        edited_seconds = asyncio.get_running_loop().time() - began
        while not await is_quiet(app) and not running.done():
            await asyncio.sleep(0.02)
        worker.stop()
    assert await chunks_of(app, 1) == ["What was said at last, number 49."]
    # The first, the last, and one whenever it may be read again: a machine that edits slowly reads more often.
    assert 1 <= provider.stats()["inputs_paid"] <= 2 + edited_seconds / STEADY_SECONDS
    await assert_books_balance(app)


async def test_a_row_that_was_read_a_moment_ago_waits_and_keeps_no_other_waiting(
    app: App, pipeline: Pipeline
) -> None:
    await add_articles(app, pipeline)
    await work_until_quiet(app)
    cutter = app.cutter()
    reader = RecordReader(app.database, cutter, worker_id=uuid4())
    notes = "SELECT keys FROM embedmill.record_changes ORDER BY id"
    try:
        await set_body(app, 1, "What was said first.")
        assert await reader.read_one_source()
        await set_body(app, 1, "What was said then.")
        await set_body(app, 2, "What another said.")
        await asyncio.sleep(CALM_SECONDS)
        assert await reader.read_one_source()
        assert await app.database.fetch(notes) == [(["1"],)]
        await asyncio.sleep(STEADY_SECONDS)
        assert await reader.read_one_source()
        assert await app.database.fetch(notes) == []
    finally:
        await cutter.aclose()
    await work_until_quiet(app)
    assert [await chunks_of(app, number) for number in (1, 2)] == [
        ["What was said then."],
        ["What another said."],
    ]
    await assert_books_balance(app)


async def test_two_pipelines_read_one_table_each_by_its_own_template(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    second = await stand_in_pipeline(app, provider.base_url, "second", dimensions=DIMENSIONS)
    await add_articles(app, pipeline)
    await add_table(app.database, second, "articles", TablePlan("$title"), actor="tester")
    await app.database.fetch("INSERT INTO public.articles VALUES (1, 'Title', 'Body'), (2, 'Other', NULL)")
    await work_until_quiet(app)
    assert sorted(await chunks_of(app, 1)) == ["Title", "Title\n\nBody"]
    provider.forget_counts()
    await app.database.fetch("UPDATE public.articles SET body = 'New'")
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == 2
    assert sorted(await chunks_of(app, 2)) == ["Other", "Other\n\nNew"]
    await assert_books_balance(app)


async def test_an_answer_for_a_text_that_was_replaced_is_not_written_under_the_new_lease_of_its_item(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=1500)
    await add_articles(app, pipeline)
    await set_body(app, 1, "Before")
    worker = reading_worker(app)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run())
        while provider.stats()["in_flight"] < 1:
            await asyncio.sleep(0.02)
        await set_body(app, 1, "After")
        while not await is_quiet(app) and not running.done():
            await asyncio.sleep(0.02)
        worker.stop()
    assert await chunks_of(app, 1) == ["After"]
    assert provider.stats()["inputs_paid"] == 2
    await assert_books_balance(app)
