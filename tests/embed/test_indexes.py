"""The keeper of an index may be cancelled at any moment: the next one finds neither its lock nor half of its work
in the way."""

from __future__ import annotations

import asyncio
import random

from embedmill.app import App
from embedmill.core.indexing import IndexStep
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generations import keep_index

LOCKS = """
SELECT count(*) FROM pg_locks
 WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def test_a_keeper_cancelled_at_any_moment_leaves_no_lock_and_the_next_builds(
    app: App, pipeline: Pipeline
) -> None:
    generation = pipeline.generation.id
    await app.database.fetch(
        f"INSERT INTO embedmill.vectors_{generation} SELECT n, '\\x00', "
        "       (SELECT array_agg(random()) FROM generate_series(1, 16 + n * 0))::vector "
        "  FROM generate_series(1, 1500) AS n".encode()
    )
    await app.database.fetch(
        "UPDATE embedmill.coverage_counters SET embedded = embedded + 1500 WHERE generation_id = %s",
        (generation,),
    )
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
