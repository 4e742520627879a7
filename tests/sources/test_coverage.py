"""Coverage of each source from counters: right in every state, by reason, with what binds; and read by index beside a
large table, whatever the statistics say."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.backfill_orders import BackfillOrder, BackfillSource
from embedmill.sources.coverage import SourceCoverage, activity, overall_percent, source_coverage
from tests.support.provider import RunningProvider
from tests.support.records import work_until_quiet
from tests.support.serving import serving
from tests.support.walks import add_notes, order, run, walk
from tests.support.work import DIMENSIONS, add_document, stand_in_pipeline


async def of(app: App, source: BackfillSource) -> SourceCoverage:
    (found,) = await source_coverage(app.database, await app.tenant_id(), source_id=source.id)
    return found


async def test_a_source_from_its_first_row_to_its_last(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 10)
    new = await of(app, source)
    assert (new.kind, new.name, new.rows, new.unread_rows, new.chunks) == ("table", "public.notes", 10, 10, 0)
    assert (new.percent, new.binds, new.eta_seconds) == (0, "nobody", None)
    every = await source_coverage(app.database, await app.tenant_id())
    assert new in every, "alone it is reckoned as among all"
    assert len(every) > 1

    await order(app, source, BackfillOrder(rows=4))
    await walk(app, source)
    read = await of(app, source)
    assert (read.unread_rows, read.documents, read.waiting_chunks, read.percent) == (6, 4, 4, 0)
    assert read.binds == "embedding"
    assert read.stale_seconds is not None
    assert 0 <= read.stale_seconds < 60

    await work_until_quiet(app)
    part = await of(app, source)
    assert (part.embedded, part.percent, part.binds) == (4, 40, "nobody")
    assert part.chunks_per_minute > 0

    await order(app, source)
    await work_until_quiet(app)
    whole = await of(app, source)
    assert (whole.percent, whole.binds, whole.eta_seconds, whole.stale_seconds) == (100, "none", 0, None)

    await run(app, "UPDATE public.notes SET body = 'changed' WHERE id < 4")
    changed = await of(app, source)
    assert (changed.waiting_rows, changed.percent) == (3, 99.99), "a stale row is missing"
    assert changed.binds == "reading"


async def test_what_cannot_be_embedded_is_apart_by_reason_and_does_not_count(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 6)
    await run(app, "UPDATE public.notes SET body = '' WHERE id <= 2")
    provider.configure(poison="note 3")
    await order(app, source)
    await work_until_quiet(app)
    found = await of(app, source)
    assert found.unembeddable == {"empty": 2, "input_rejected": 1}
    assert (found.embedded, found.percent, found.failed) == (3, 100, 0)


async def test_items_that_were_given_up_are_failed(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    source = await add_notes(app, pipeline, 3)
    await order(app, source)
    await walk(app, source)
    await run(
        app,
        "SELECT embedmill.bury_items(ARRAY(SELECT id FROM embedmill.embedding_queue WHERE source_id = '2'), "
        "'provider_unavailable', 'it was away')",
    )
    await work_until_quiet(app)
    await run(app, "DELETE FROM embedmill.embedding_minutes")
    found = await of(app, source)
    assert (found.failed, found.embedded, found.waiting_chunks) == (1, 2, 1)
    assert found.percent == 66.66
    assert found.binds == "failed"
    # The walk tries again, and the letter is dealt with.
    await order(app, source)
    await work_until_quiet(app)
    again = await of(app, source)
    assert (again.failed, again.percent) == (0, 100)


async def test_what_binds(app: App, provider: RunningProvider) -> None:
    pipeline = await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS, tokens_per_minute=6000)
    source = await add_notes(app, pipeline, 120)
    await order(app, source, BackfillOrder(rows_per_second=2))
    walking = await of(app, source)
    assert walking.binds == "backfill"
    assert walking.eta_seconds is not None
    await order(app, source, BackfillOrder(rows=100))
    await walk(app, source)
    await run(
        app,
        "UPDATE embedmill.quotas SET cooldown_until = now() + interval '30 s', cooldown_reason = 'said 429'",
    )
    limited = await of(app, source)
    assert limited.binds == "quota"
    # 240 tokens by 6,000 a minute, and the pause before.
    assert limited.eta_seconds == pytest.approx(2.4 + 30, abs=3)
    await run(app, "UPDATE embedmill.record_sources SET paused_at = now()")
    assert (await of(app, source)).binds == "paused"
    await run(app, "UPDATE embedmill.record_sources SET paused_at = NULL, trouble = 'a column is gone'")
    await run(app, "UPDATE embedmill.quotas SET cooldown_until = '-infinity'")
    assert (await of(app, source)).binds == "trouble"


async def test_an_upload_at_its_preview_waits_for_nobody_but_its_launch(
    database: str, tmp_path: Path, provider: RunningProvider
) -> None:
    async with serving(database, tmp_path / "data") as service:
        pipeline = await stand_in_pipeline(service.app, provider.base_url, dimensions=DIMENSIONS)
        job = await service.upload("a.txt", b"One paragraph.", pipeline="standin")
        await service.until(job["jobId"], "chunk_preview_ready")
        (uploads,) = await source_coverage(service.app.database, pipeline.tenant_id, pipeline="standin")
        assert (uploads.chunks, uploads.waiting_chunks, uploads.unlaunched_chunks) == (1, 0, 1)
        assert (uploads.percent, uploads.binds) == (100, "none")
        await service.client.post(f"/ingestion-jobs/{job['jobId']}/cancel")
        (uploads,) = await source_coverage(service.app.database, pipeline.tenant_id, pipeline="standin")
        assert (uploads.waiting_chunks, uploads.unlaunched_chunks) == (1, 0)
        assert (uploads.percent, uploads.binds) == (0, "nobody"), "its chunks stand, and nobody embeds them"
        await service.client.post(f"/ingestion-jobs/{job['jobId']}/resume")
        await service.until(job["jobId"], "completed")
        (uploads,) = await source_coverage(service.app.database, pipeline.tenant_id, pipeline="standin")
        assert (uploads.waiting_chunks, uploads.unlaunched_chunks, uploads.percent) == (0, 0, 100)


async def test_uploads_are_a_source_of_each_pipeline_and_tenants_are_apart(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "a", ["one", "two"])
    await app.database.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme')")
    rows = await app.database.fetch("SELECT id FROM embedmill.tenants WHERE slug = 'acme'")
    assert await source_coverage(app.database, rows[0][0]) == []
    (uploads,) = await source_coverage(app.database, pipeline.tenant_id, pipeline="standin")
    assert (uploads.kind, uploads.chunks, uploads.rows, uploads.percent) == ("uploads", 2, None, 0)
    assert overall_percent([uploads]) == 0
    await work_until_quiet(app)
    found = await source_coverage(app.database, pipeline.tenant_id)
    assert overall_percent(found) == 100
    (minute,) = await activity(app.database, pipeline.tenant_id, minutes=5)
    assert (minute.source, minute.embedded, minute.unembeddable) == ("uploads", 2, 0)
    assert await activity(app.database, rows[0][0], minutes=5) == []


MANY = """
INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, record_source_id, source_type, source_id, name,
    media_type, content_hash, chunk_count, error_reason)
SELECT 1, %(pipeline)s, %(source)s, 'public.notes', n::text, 'n', 'text/plain', '\\x00', 1,
       CASE WHEN n %% 1000 = 0 THEN 'empty' END
  FROM generate_series(1, 20000) AS n;
INSERT INTO embedmill.knowledge_chunks (tenant_id, pipeline_id, document_id, record_source_id, ordinal, start_offset,
    end_offset, text, token_count, content_hash, text_config)
SELECT 1, %(pipeline)s, d.id, %(source)s, 0, 0, 1, 'x', 1, sha256(d.source_id::bytea), 'simple'
  FROM embedmill.knowledge_documents d WHERE d.error_reason IS NULL;
INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, document_id, priority, source_type, source_id,
    first_ordinal, last_ordinal, available_at)
SELECT 1, %(generation)s, d.id, 'low', d.source_type, d.source_id, 0, 0, now()
  FROM embedmill.knowledge_documents d WHERE d.error_reason IS NULL;
INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
SELECT %(source)s, 1, 'U', ARRAY[n::text] FROM generate_series(1, 20000) AS n;
INSERT INTO embedmill.dead_letters (tenant_id, generation_id, document_id, record_source_id, item_id, reason,
    error_message, resolved_at)
SELECT 1, %(generation)s, d.id, d.record_source_id, d.id, 'x', 'y', now() FROM embedmill.knowledge_documents d
"""


@pytest.mark.parametrize("statistics", ["never analysed", "fresh"])
async def test_nothing_is_scanned_beside_a_large_source(
    app: App, pipeline: Pipeline, provider: RunningProvider, statistics: str
) -> None:
    source = await add_notes(app, pipeline)
    with psycopg.connect(
        app.database.url, autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as connection:
        for (table,) in connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'embedmill'::regnamespace"
        ).fetchall():
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        connection.execute(
            MANY.encode(),
            {"pipeline": pipeline.id, "source": source.id, "generation": pipeline.generation.id},
        )
        if statistics == "fresh":
            connection.execute("ANALYZE")
        for statement in (
            "SELECT * FROM embedmill.source_coverage(1)",
            "SELECT count(*) FROM embedmill.embedding_activity(1, 60)",
        ):
            with connection.transaction():
                before = rows_read(connection)
                assert connection.execute(statement.encode()).fetchall()
                scanned, fetched = (
                    now - then for now, then in zip(rows_read(connection), before, strict=True)
                )
            assert scanned <= 100, f"{statement} scans {scanned} rows"
            assert fetched <= 4000, f"{statement} reads {fetched} rows"


def rows_read(connection: psycopg.Connection[tuple[object, ...]]) -> tuple[int, int]:
    """Rows of the large tables (one after the other, by index) in this transaction so far."""
    row = connection.execute(
        "SELECT coalesce(sum(seq_tup_read), 0), coalesce(sum(coalesce(idx_tup_fetch, 0)), 0) "
        "  FROM pg_stat_xact_user_tables "
        " WHERE relname ~ '^(embedding_queue|knowledge_|record_changes|dead_letters|vectors_)'"
    ).fetchone()
    assert row is not None
    return int(str(row[0])), int(str(row[1]))
