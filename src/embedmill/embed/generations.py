"""The indexes of a generation, of its vectors and of their documents: built once a bulk load is done, dropped before a
large one. Owns the doing; the rule is core/indexing.py. Search reads exactly while there is none, so it is right either
way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import structlog
from psycopg import sql

from embedmill.core.indexing import INDEX_DEPTH, IndexStep, next_index_step
from embedmill.database.pipelines import Generation, Pipeline
from embedmill.database.pool import Connection, Database
from embedmill.database.queries import load_queries, vectors_table

_SQL = load_queries("embedmill.embed", "generations.sql")
_log = structlog.get_logger(__name__)


async def keep_index(database: Database, pipeline: Pipeline, *, may_build: bool = True) -> IndexStep:
    """Do what the rule asks for now; building takes minutes, so not where work waits (`may_build`). A no-op where
    another process is at it; safe to kill at any moment: a half-built index is dropped and built again by the
    next one who comes."""
    generation = pipeline.generation
    async with database.session() as connection:
        if not await _lock(connection, generation):
            return IndexStep.KEEP
        try:
            return await _step(connection, generation, may_build=may_build)
        except psycopg.errors.UndefinedTable:
            return IndexStep.KEEP  # pruned in this instant


@asynccontextmanager
async def loading(database: Database, pipeline: Pipeline) -> AsyncIterator[None]:
    """Meanwhile no index of the pipeline is built: more comes than anybody has counted. Whoever leaves has keep_index
    look again, once all is embedded. Of use, not of need: where its connection breaks, an index is built early."""
    async with database.session() as connection:
        await connection.execute(_SQL["begin_loading"], {"pipeline_id": pipeline.id})
        yield


async def _step(connection: Connection, generation: Generation, *, may_build: bool) -> IndexStep:
    index, of_documents = _names(generation)
    cursor = await connection.execute(
        _SQL["index_facts"], {"generation_id": generation.id, "index_name": index}
    )
    row = await cursor.fetchone()
    embedded, waiting, is_loading, is_valid = row if row else (0, 0, False, None)
    if is_valid is False and may_build:
        await _drop(connection, index)
        is_valid = None
    step = next_index_step(
        embedded=embedded or 0, waiting=waiting, has_index=is_valid is not None, is_loading=is_loading
    )
    if step is IndexStep.DROP:
        _log.info("index dropped for a bulk load", generation_id=generation.id, waiting=waiting)
        await _drop(connection, index)
        await _drop(connection, of_documents)
    elif step is IndexStep.BUILD and may_build:
        _log.info("index building", generation_id=generation.id, vectors=embedded)
        await _build_of_documents(connection, generation)
        await _build(connection, generation, embedded)
    else:
        return IndexStep.KEEP
    return step


async def _build_of_documents(connection: Connection, generation: Generation) -> None:
    """Where each vector knows its document: else it would serve nobody."""
    vectors = vectors_table(generation.id)
    _, index = _names(generation)
    await _drop(connection, index)  # one that was left half-built
    cursor = await connection.execute(_SQL["knows_all_documents"].format(vectors=vectors))
    if await cursor.fetchone() == (True,):
        await connection.execute(
            _SQL["build_index_of_documents"].format(index=sql.Identifier(index), vectors=vectors)
        )


async def _build(connection: Connection, generation: Generation, embedded: int) -> None:
    scalar_bytes = 4 if generation.storage == "vector" else 2
    await connection.execute(
        _SQL["more_memory"], {"embedded": embedded, "vector_bytes": scalar_bytes * generation.dimensions}
    )
    vectors = vectors_table(generation.id)
    index, _ = _names(generation)
    await connection.execute(
        _SQL["build_index"].format(
            index=sql.Identifier(index),
            vectors=vectors,
            operators=sql.Identifier(f"{generation.storage}_cosine_ops"),
            depth=sql.Literal(INDEX_DEPTH),
        )
    )
    await connection.execute(_SQL["analyze"].format(vectors=vectors))


async def _drop(connection: Connection, index: str) -> None:
    await connection.execute(_SQL["drop_index"].format(index=sql.Identifier("embedmill", index)))


def _names(generation: Generation) -> tuple[str, str]:
    """Of the index of vectors and of that of their documents. They carry no schema: an index stands where its table
    stands."""
    return f"vectors_{generation.id}_hnsw", f"vectors_{generation.id}_documents"


async def _lock(connection: Connection, generation: Generation) -> bool:
    cursor = await connection.execute(_SQL["try_lock"], {"generation_id": generation.id})
    row = await cursor.fetchone()
    return bool(row and row[0])
