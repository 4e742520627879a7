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
        f"INSERT INTO embedmill.vectors_{generation} (chunk_id, input_hash, embedding, document_id) "
        "SELECT n, '\\x00', (SELECT array_agg(random()) FROM generate_series(1, 16 + n * 0))::vector, n "
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


async def indexes(app: App, pipeline: Pipeline) -> list[str]:
    """Those of the generation's table that are ready to be used, but for its key."""
    rows = await app.database.fetch(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        " WHERE i.indrelid = %s::regclass AND i.indisvalid AND NOT i.indisprimary ORDER BY 1",
        (f"embedmill.vectors_{pipeline.generation.id}",),
    )
    return [name for (name,) in rows]


async def test_documents_have_an_index_for_as_long_as_vectors_have(app: App, pipeline: Pipeline) -> None:
    generation = pipeline.generation.id
    both = [f"vectors_{generation}_documents", f"vectors_{generation}_hnsw"]
    await stand(app, pipeline, 1500)
    await keep_index(app.database, pipeline)
    assert await indexes(app, pipeline) == both
    for step, waiting, left in ((IndexStep.DROP, 100_000, []), (IndexStep.BUILD, 0, both)):
        await app.database.fetch(
            "WITH gone AS (DELETE FROM embedmill.embedding_queue) "
            "INSERT INTO embedmill.embedding_queue (tenant_id, generation_id, document_id, first_ordinal, "
            "    last_ordinal, source_type, source_id) "
            "SELECT %s, %s, NULL, 0, %s - 1, 'test', 'one' WHERE %s > 0",
            (pipeline.tenant_id, generation, waiting, waiting),
        )
        assert await keep_index(app.database, pipeline) is step
        assert await indexes(app, pipeline) == left


async def test_vectors_of_an_older_release_get_no_index_of_documents(app: App, pipeline: Pipeline) -> None:
    """It would find only those that say whose they are."""
    generation = pipeline.generation.id
    await stand(app, pipeline, 1500)
    await app.database.fetch(
        f"UPDATE embedmill.vectors_{generation} SET document_id = NULL WHERE chunk_id = 7".encode()
    )
    await keep_index(app.database, pipeline)
    assert await indexes(app, pipeline) == [f"vectors_{generation}_hnsw"]


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
