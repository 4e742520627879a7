"""Bytes of disk and of the write-ahead log for each chunk, by where it comes from and how its vector is stored. Owns
this measurement alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from psycopg import sql
from tests.support.provider import RunningProvider
from tests.support.records import work_until_quiet
from tests.support.work import add_document, app_on, run_worker_until_settled, stand_in_pipeline

from benchmarks.scaling.processes import TABLE
from benchmarks.servers import benchmark_database
from benchmarks.writing import texts_of
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import load_queries
from embedmill.embed.generations import keep_index, loading
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table

_SQL = load_queries("benchmarks.scaling", "scaling.sql")
CHUNKS_PER_DOCUMENT = 500


class Kind(NamedTuple):
    """Of vectors."""

    storage: str
    dimensions: int


KINDS = (Kind("vector", 1536), Kind("halfvec", 1536), Kind("halfvec", 384))


async def storage(provider: RunningProvider, origin: str, kind: Kind, chunks: int) -> dict[str, Any]:
    """Of `chunks` chunks: stored and embedded without a vector index; then the index is built; then a twentieth more
    come while it stands, right after a checkpoint (the log takes each page whole that is touched first), and again."""
    provider.configure(dimensions=kind.dimensions)
    with tempfile.TemporaryDirectory() as folder, benchmark_database() as url:
        async with app_on(url, Path(folder)) as app:
            pipeline = await stand_in_pipeline(
                app, provider.base_url, dimensions=kind.dimensions, storage=kind.storage,
                max_inputs_per_call=500, timeout_seconds=60,
            )  # fmt: skip
            await app.database.fetch("CHECKPOINT")
            before = await sizes(app, pipeline)
            async with loading(app.database, pipeline):  # no worker builds the index meanwhile
                embed = embed_rows if origin == "rows" else embed_documents
                log = await log_of(app, embed, pipeline, chunks, 0)
            await app.database.fetch("VACUUM ANALYZE")
            after = await sizes(app, pipeline)
            index_log = await log_of(app, build_index, pipeline)
            indexed = await sizes(app, pipeline)
            await app.database.fetch("CHECKPOINT")
            more = chunks // 20
            late_log = await log_of(app, embed_documents, pipeline, more, chunks)
            later_log = await log_of(app, embed_documents, pipeline, more, chunks + 1)
    taken = {part: round((after[part] - before[part]) / chunks) for part in after if part != "index"}
    return {
        "measure": "storage",
        "origin": origin,
        "storage": kind.storage,
        "dimensions": kind.dimensions,
        **{f"{part}_bytes": size for part, size in taken.items()},
        "index_bytes": round(indexed["index"] / chunks),
        "log_bytes": round(log / chunks),
        "index_log_bytes": round(index_log / chunks),
        "log_bytes_indexed": round(later_log / more),
        "log_bytes_indexed_after_checkpoint": round(late_log / more),
    }


async def log_of(app: App, work: Any, *arguments: Any) -> int:
    """Bytes of log that this work writes."""
    position = (await app.database.fetch(_SQL["log_position"]))[0][0]
    await work(app, *arguments)
    return int((await app.database.fetch(_SQL["log_since"], {"position": position}))[0][0])


async def embed_documents(app: App, pipeline: Pipeline, chunks: int, seed: int) -> None:
    """Documents of up to 500 chunks of about 25 words."""
    batch = uuid4()
    texts = texts_of(chunks, seed)
    for start in range(0, chunks, CHUNKS_PER_DOCUMENT):
        some = texts[start : start + CHUNKS_PER_DOCUMENT]
        await add_document(app, pipeline, f"{seed} {start}", some, batch)
    await run_worker_until_settled(app, batch, seconds=600)


async def embed_rows(app: App, pipeline: Pipeline, rows: int, seed: int) -> None:
    """Rows of a user's table, one chunk each, by a backfill; the table's own bytes stand in neither figure."""
    del seed
    await app.database.fetch(TABLE.format(rows=rows))
    await add_table(app.database, pipeline, "public.notes", TablePlan("$body"), actor="benchmark")
    await work_until_quiet(app, seconds=600)


async def build_index(app: App, pipeline: Pipeline) -> None:
    await keep_index(app.database, pipeline)


async def sizes(app: App, pipeline: Pipeline) -> dict[str, int]:
    number = pipeline.generation.id
    query = _SQL["sizes"].format(
        vectors=sql.Literal(f"embedmill.vectors_{number}"),
        index=sql.SQL("to_regclass({})").format(sql.Literal(f"embedmill.vectors_{number}_hnsw")),
    )
    row = (await app.database.fetch(query))[0]
    return dict(zip(("documents", "chunks", "vectors", "index", "books", "database"), row, strict=True))
