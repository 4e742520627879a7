"""The keeper of an index may be cancelled at any moment: the next one finds neither its lock nor half of its work
in the way."""

from __future__ import annotations

import asyncio
import random

from embedmill.app import App
from embedmill.core.indexing import IndexStep
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generations import keep_index, loading
from tests.support.work import add_document

LOCKS = """
SELECT count(*) FROM pg_locks
 WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def stand(app: App, pipeline: Pipeline, vectors: int) -> None:
    """So many vectors, counted, of chunks that nobody has."""
    generation = pipeline.generation.id
    await app.database.fetch(
        f"INSERT INTO embedmill.vectors_{generation} SELECT n, '\\x00', "
        "       (SELECT array_agg(random()) FROM generate_series(1, 16 + n * 0))::vector "
        "  FROM generate_series(1, %s) AS n".encode(),
        (vectors,),
    )
    await app.database.fetch(
        "UPDATE embedmill.coverage_counters SET embedded = embedded + %s WHERE generation_id = %s",
        (vectors, generation),
    )


async def test_a_keeper_cancelled_at_any_moment_leaves_no_lock_and_the_next_builds(
    app: App, pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    await stand(app, pipeline, 1500)
    chance = random.Random(5)
    for _ in range(40):
        keeper = asyncio.create_task(keep_index(app.database, pipeline))
        await asyncio.sleep(chance.random() * chance.random() * 0.15)
        keeper.cancel()
        await asyncio.wait([keeper])
        async with asyncio.timeout(5):
            while (await app.database.fetch(LOCKS))[0][0]:  # its backend may take a moment to go
                await asyncio.sleep(0.01)
        if chance.random() < 0.5:
            await app.database.fetch(f"DROP INDEX IF EXISTS embedmill.vectors_{generation}_hnsw".encode())
    await keep_index(app.database, pipeline)
    rows = await app.database.fetch(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)",
        (f"embedmill.vectors_{generation}_hnsw",),
    )
    assert rows == [(True,)]
    assert await keep_index(app.database, pipeline) is IndexStep.KEEP


async def test_while_somebody_loads_nothing_is_built(app: App, pipeline: Pipeline) -> None:
    await stand(app, pipeline, 1500)
    async with loading(app.database, pipeline), loading(app.database, pipeline):
        assert await keep_index(app.database, pipeline) is IndexStep.KEEP
    assert await keep_index(app.database, pipeline) is IndexStep.BUILD


async def test_uploads_that_are_not_parsed_yet_are_reckoned_with(app: App, pipeline: Pipeline) -> None:
    """Those that go on by themselves; what will stop at its preview is not waited for."""
    await stand(app, pipeline, 1500)
    launched = await add_document(app, pipeline, "/upload.txt", ["one"])
    for auto_launch, step in ((True, IndexStep.KEEP), (False, IndexStep.BUILD)):
        await app.database.fetch(
            "WITH jobs AS (INSERT INTO embedmill.ingestion_jobs (tenant_id, pipeline_id, document_id, auto_launch) "
            "              SELECT %(tenant)s, %(pipeline)s, %(document)s, %(auto)s FROM generate_series(1, 200) "
            "           RETURNING id, tenant_id, priority), "
            "     gone AS (DELETE FROM embedmill.parse_queue) "
            "INSERT INTO embedmill.parse_queue (job_id, tenant_id, priority) SELECT * FROM jobs",
            {
                "tenant": pipeline.tenant_id,
                "pipeline": pipeline.id,
                "document": launched.document_id,
                "auto": auto_launch,
            },
        )
        assert await keep_index(app.database, pipeline) is step
