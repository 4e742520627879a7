"""Coverage that falls and does not rise is told; what rises, or waits for a person at its preview, is not."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.alerts import Watch, configure, open_watch


@pytest.fixture
async def watch(app: App) -> Watch:
    """Whose looks raise what has held for a quarter of an hour, and resolve at once."""
    await configure(app, alert_after_seconds=0, alert_clear_seconds=0)
    return await open_watch(app)


async def test_coverage_that_falls_and_does_not_rise_is_told_and_one_that_rises_is_not(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    async def stands(chunks: int, embedded: int) -> None:
        await app.database.fetch(
            "INSERT INTO embedmill.coverage_counters AS c (generation_id, chunks, embedded) VALUES (%s, %s, %s) "
            "ON CONFLICT (generation_id, record_source_id) DO UPDATE "
            "SET chunks = excluded.chunks, embedded = excluded.embedded",
            (pipeline.generation.id, chunks, embedded),
        )

    await stands(1000, 1000)
    await configure(app, alert_clear_seconds=120)
    for minute in range(0, 20, 5):
        assert await watch.look(60 * minute) == set()
    await stands(2000, 1100)
    for minute in range(20, 60):  # a large upload: it is worked on
        await stands(2000, 1100 + 20 * (minute - 20))
        assert await watch.look(60 * minute) == set()
    await stands(2000, 1700)
    seen = [await watch.look(60 * minute) for minute in range(60, 100)]
    assert seen[0] == set()
    assert seen[-1] == {"coverage_falling"}
    alert = await watch.alert("coverage_falling")
    assert (alert.numbers["bestPercent"], alert.numbers["percent"]) == (100, 85)
    await stands(2000, 1990)
    await watch.look(6000)
    assert await watch.look(6200) == set()


async def test_uploads_at_their_preview_are_no_coverage_that_fell(
    app: App, pipeline: Pipeline, watch: Watch
) -> None:
    await app.database.fetch(
        "INSERT INTO embedmill.coverage_counters (generation_id, chunks, embedded) VALUES (%s, 1000, 1000) "
        "ON CONFLICT (generation_id, record_source_id) DO UPDATE SET chunks = 1000, embedded = 1000",
        (pipeline.generation.id,),
    )
    await watch.look(0)
    await app.database.fetch("UPDATE embedmill.coverage_counters SET chunks = 2000 WHERE chunks > 0")
    await app.database.fetch(
        "WITH d AS (INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name) "
        "           VALUES (%(tenant)s, %(pipeline)s, 'upload', 'a', 'a') RETURNING id) "
        "INSERT INTO embedmill.ingestion_jobs (tenant_id, pipeline_id, document_id, status, total_chunks) "
        "SELECT %(tenant)s, %(pipeline)s, id, 'chunk_preview_ready', 980 FROM d",
        {"tenant": pipeline.tenant_id, "pipeline": pipeline.id},
    )
    seen = [await watch.look(60 * minute) for minute in range(1, 60)]
    assert seen == [set()] * 59
    await app.database.fetch("UPDATE embedmill.ingestion_jobs SET total_chunks = 500")
    seen = [await watch.look(60 * minute) for minute in range(60, 120)]
    assert seen[-1] == {"coverage_falling"}
