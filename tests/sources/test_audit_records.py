"""An audit of rows: each kind of fault made by hand in a real table, named exactly, mended, and gone."""

from __future__ import annotations

from psycopg import sql

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from tests.sources.auditing import (
    TABLE,
    add_rows,
    alter,
    audit,
    behind_our_back,
    counts,
    delete_vectors,
    embedded_table,
    mended,
    named,
)
from tests.support.audit import assert_books_balance
from tests.support.provider import RunningProvider
from tests.support.records import work_until_quiet
from tests.support.work import stored_vectors

ROWS = 30


async def assert_mends(
    app: App, provider: RunningProvider, expected: dict[str, int], *, paid: int, rows: int = ROWS
) -> None:
    """A repair mends just that, pays for so many texts, and leaves nothing to find."""
    provider.forget_counts()
    assert mended(await audit(app, mends="all")) == expected
    await work_until_quiet(app)
    assert provider.stats()["inputs_paid"] == paid
    assert counts(await audit(app)) == {}
    await assert_books_balance(app)
    assert await app.database.fetch("SELECT rows, documents FROM embedmill.record_sources") == [(rows, rows)]


async def test_a_table_that_is_embedded_has_no_fault(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    record = await audit(app)
    assert (counts(record), record.ended_at is not None) == ({}, True)
    assert record.looked >= 3 * ROWS, "rows, documents and vectors"


async def test_a_vector_that_is_gone_though_its_item_was_completed(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    assert await delete_vectors(app, pipeline, ["3", "17"]) == 2
    record = await audit(app)
    assert counts(record) == {"done_but_no_vector": 2, "job_counters_that_lie": 1}
    assert named(record, "done_but_no_vector") == {"3", "17"}
    assert counts(await audit(app, source=TABLE)) == counts(record), "the same within the source alone"
    assert mended(record) == {"done_but_no_vector": 0, "job_counters_that_lie": 0}, "nothing was asked for"
    await assert_mends(app, provider, {"done_but_no_vector": 2, "job_counters_that_lie": 1}, paid=2)


async def test_rows_that_another_system_reported_as_done(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    """Its history names rows of the source; some have no document, some were deleted since, some are embedded."""
    await embedded_table(app, pipeline, ROWS, condition=None)
    await behind_our_back(
        app, "INSERT INTO public.jobs SELECT n, 'New', 'Row ' || n FROM generate_series(31, 36) n"
    )
    await app.database.fetch(
        "INSERT INTO embedmill.embedding_queue_history"
        "  (id, tenant_id, generation_id, part, status, priority, operation, retry_count, max_retries, crash_count,"
        "   estimated_tokens, actual_tokens, vector_count, created_at, processing_completed_at, source_type, source_id,"
        "   metadata)"
        " SELECT nextval(pg_get_serial_sequence('embedmill.embedding_queue', 'id')), %s, %s, 0, "
        "        CASE WHEN n = 36 THEN 'failed' ELSE 'completed' END::embedmill.queue_status,"
        "        'medium', 'INSERT', 0, 3, 0, 0, 0, 1, now(), now(), 'public.jobs', n::text, '{}'"
        "   FROM unnest(ARRAY[1, 2, 31, 32, 33, 36, 999]) AS n",
        (pipeline.tenant_id, pipeline.generation.id),
    )
    record = await audit(app)
    assert counts(record) == {"done_but_no_vector": 3, "source_never_queued": 3, "job_counters_that_lie": 1}
    assert named(record, "done_but_no_vector") == {"31", "32", "33"}
    assert named(record, "source_never_queued") == {"34", "35", "36"}
    await assert_mends(app, provider, counts(record), paid=6, rows=36)


async def test_a_row_whose_text_changed_unseen(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    await behind_our_back(app, "UPDATE public.jobs SET body = 'Sells bread' WHERE id IN (5, 6, 7)")
    await app.database.fetch("UPDATE public.jobs SET body = 'Sells cake' WHERE id = 7")  # this one was seen
    record = await audit(app)
    assert counts(record) == {"vector_of_an_older_text": 2}
    assert named(record, "vector_of_an_older_text") == {"5", "6"}
    await assert_mends(app, provider, {"vector_of_an_older_text": 2}, paid=3)
    texts = {text for _, text, _ in await stored_vectors(app, pipeline)}
    assert {"Miller 5\n\nSells bread", "Miller 6\n\nSells bread", "Miller 7\n\nSells cake"} <= texts


async def test_a_chunk_whose_text_is_not_its_vectors(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    await app.database.fetch(
        "UPDATE embedmill.knowledge_chunks c SET text = 'tampered' FROM embedmill.knowledge_documents d"
        " WHERE d.id = c.document_id AND d.source_id = '9'"
    )
    await app.database.fetch(
        sql.SQL(
            "UPDATE {0} SET input_hash = '\\x00' WHERE chunk_id = (SELECT min(chunk_id) FROM {0})"
        ).format(vectors_table(pipeline.generation.id))
    )
    record = await audit(app)
    assert counts(record) == {"vector_of_an_older_text": 2}
    # The text of one was never changed: its neighbour of the same text does not exist, so it is paid for.
    await assert_mends(app, provider, {"vector_of_an_older_text": 2}, paid=2)


async def test_documents_whose_rows_are_gone_or_unwanted(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source_id = await embedded_table(app, pipeline, ROWS)
    await behind_our_back(
        app,
        "DELETE FROM public.jobs WHERE id IN (1, 2)",
        "UPDATE public.jobs SET is_active = false WHERE id = 3",
    )
    record = await audit(app)
    assert counts(record) == {"vector_without_source": 3, "job_counters_that_lie": 1}
    assert named(record, "vector_without_source") == {"1", "2", "3"}
    await assert_mends(
        app, provider, {"vector_without_source": 3, "job_counters_that_lie": 1}, paid=0, rows=ROWS - 3
    )
    assert await app.database.fetch(
        "SELECT count(*) FROM embedmill.knowledge_documents WHERE record_source_id = %s", (source_id,)
    ) == [(ROWS - 3,)]


async def test_documents_of_a_source_that_is_gone(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source_id = await embedded_table(app, pipeline, ROWS)
    await app.database.fetch("SELECT embedmill.detach_table_source(%s)", (source_id,))
    await app.database.fetch(
        "INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)"
        " VALUES (%s, %s, 'U', '{1}')",
        (source_id, pipeline.tenant_id),
    )
    await app.database.fetch("DELETE FROM embedmill.record_sources WHERE id = %s", (source_id,))
    record = await audit(app)
    assert counts(record) == {"vector_without_source": ROWS, "left_behind": 1}
    assert mended(await audit(app, mends="all")) == counts(record)
    assert counts(await audit(app)) == {}
    assert await app.database.fetch("SELECT id FROM embedmill.knowledge_documents") == []
    await assert_books_balance(app)


async def test_rows_that_nobody_will_come_to(app: App, pipeline: Pipeline, provider: RunningProvider) -> None:
    await embedded_table(app, pipeline, ROWS)
    await behind_our_back(app, "INSERT INTO public.jobs VALUES (0, 'Unseen', 'row'), (100, 'Unseen', 'too')")
    record = await audit(app)
    assert counts(record) == {"source_never_queued": 2, "job_counters_that_lie": 1}
    # A walk that runs comes to what is ahead of it, and not to what it has passed.
    await app.database.fetch("UPDATE embedmill.backfills SET ended_at = NULL, after_key = '{30}'")
    assert named(await audit(app), "source_never_queued") == {"0"}
    await app.database.fetch("UPDATE embedmill.backfills SET ended_at = now()")
    expected = {"source_never_queued": 2, "job_counters_that_lie": 1}
    await assert_mends(app, provider, expected, paid=2, rows=ROWS + 2)


async def test_triggers_that_are_switched_off(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    alter(app, "ALTER TABLE public.jobs DISABLE TRIGGER ALL")
    await add_rows(app, 31, 32)
    await app.database.fetch("UPDATE public.jobs SET title = 'Baker' WHERE id = 4")
    record = await audit(app)
    expected = {
        "vector_of_an_older_text": 1,
        "source_never_queued": 2,
        "job_counters_that_lie": 1,
        "source_not_watched": 1,
    }
    assert counts(record) == expected
    await assert_mends(app, provider, expected, paid=3, rows=32)
    await app.database.fetch("UPDATE public.jobs SET title = 'Brewer' WHERE id = 4")
    assert await app.database.fetch("SELECT keys FROM embedmill.record_changes") == [(["4"],)]


async def test_a_source_that_cannot_be_read_is_told_and_the_others_are_audited(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await embedded_table(app, pipeline, ROWS)
    alter(app, "ALTER TABLE public.jobs RENAME COLUMN body TO words")
    await delete_vectors(app, pipeline, ["8"])
    record = await audit(app, mends="all")
    assert counts(record)["source_not_watched"] == 1
    assert mended(record)["source_not_watched"] == 0, "which column is meant is for a person to say"
    assert mended(record)["done_but_no_vector"] == 1
