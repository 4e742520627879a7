"""An installation full of passages: tables of the product, filled by COPY, indexed by the product. Owns what stands in
a kept folder, and whose; measures nothing but the building of the index."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import AsyncConnection, sql
from tests.support.work import app_on, stand_in_pipeline

from benchmarks.search.passages import CHUNKS_PER_DOCUMENT, DIMENSIONS, SLAB, Floats, Integers, Passages
from embedmill.app import App, find_database, stop_database
from embedmill.database.pipelines import Pipeline, find_pipeline, tenant_id
from embedmill.database.queries import load_queries, vectors_table
from embedmill.embed.generations import keep_index
from embedmill.errors import NotFoundError
from embedmill.settings import Settings

_SQL = load_queries("benchmarks.search", "filling.sql")
_SIGNATURE, _TRAILER = b"PGCOPY\n\xff\r\n\x00" + bytes(8), b"\xff\xff"
_ROW = np.dtype(
    [("fields", ">i2"), ("l0", ">i4"), ("document", ">i8"), ("l1", ">i4"), ("id", ">i8"), ("l2", ">i4"),
     ("hash", "V16"), ("l3", ">i4"), ("dimensions", ">i2"), ("zero", ">i2"), ("vector", ">f2", (DIMENSIONS,))]
)  # fmt: skip
_STORED_ROW = np.dtype(
    [("fields", ">i2"), ("l1", ">i4"), ("id", ">i8"), ("l3", ">i4"), ("dimensions", ">i2"), ("zero", ">i2"),
     ("vector", ">f2", (DIMENSIONS,))]
)  # fmt: skip
# Beside the tenant who has `size` chunks, others who share his tables of chunks: so many have one each.
SHARES = {"default": 1.0, "tenth": 0.1, "hundredth": 0.01, "ten-thousandth": 0.0001}


@dataclass(frozen=True)
class Holding:
    """What one tenant has. `first` is the number of its first chunk, less one."""

    tenant: str
    pipeline: Pipeline
    passages: Passages
    first: int


@dataclass(frozen=True)
class Installation:
    url: str
    folder: Path
    holdings: dict[str, Holding]


@asynccontextmanager
async def installation(folder: Path, size: int) -> AsyncIterator[Installation]:
    """Running, in a folder that stays; filled where it is not yet."""
    settings = Settings(data_dir=folder)
    url = find_database(settings)
    try:
        holdings = {}
        first = 0
        for number, (tenant, share) in enumerate(SHARES.items()):
            passages = Passages(max(round(size * share), 1), seed=number + 1)
            holdings[tenant] = Holding(tenant, await _pipeline(url, folder, tenant), passages, first)
            first += -(-passages.count // SLAB) * SLAB
        made = Installation(url, folder, holdings)
        if not (folder / "filled").exists():
            await _fill(made)
            (folder / "filled").touch()
        yield made
    finally:
        stop_database(settings)


async def _pipeline(url: str, folder: Path, tenant: str) -> Pipeline:
    async with app_on(url, folder) as app:
        await app.database.fetch(_SQL["tenant"], {"slug": tenant})
    async with app_on(url, folder, tenant=tenant) as app:
        try:
            return await find_pipeline(app.database, await tenant_id(app.database, tenant), "standin")
        except NotFoundError:
            # Nobody calls this provider: queries bring their vectors.
            return await stand_in_pipeline(
                app, "http://127.0.0.1:9/v1", dimensions=DIMENSIONS, storage="halfvec"
            )


async def _fill(made: Installation) -> None:
    async with app_on(made.url, made.folder) as app, app.database.connection() as connection:
        definitions = await (await connection.execute(_SQL["indexes_of_chunks"])).fetchall()
        await connection.execute(_SQL["drop_indexes_of_chunks"])
        for holding in made.holdings.values():
            for first in range(0, holding.passages.count, SLAB):
                last = min(first + SLAB, holding.passages.count)
                await _copy_slab(connection, holding, first, last)
                print(f"   {holding.tenant}: {last:,} chunks", flush=True)
            await connection.execute(
                _SQL["count_embedded"], {"generation_id": holding.pipeline.generation.id}
            )
        await connection.execute("SET maintenance_work_mem = '1GB'")
        for _, definition in definitions:
            await connection.execute(definition.encode())
        await connection.execute("VACUUM ANALYZE")
        for holding in made.holdings.values():
            await _index(app, connection, holding)
        await connection.execute("CHECKPOINT")


async def _copy_slab(connection: AsyncConnection[Any], holding: Holding, first: int, last: int) -> None:
    passages, pipeline = holding.passages, holding.pipeline
    documents = np.arange(first // CHUNKS_PER_DOCUMENT, (last - 1) // CHUNKS_PER_DOCUMENT + 1)
    metadata = passages.metadata_of(documents)
    ids = (pipeline.tenant_id, pipeline.id)
    async with connection.cursor().copy(_SQL["documents"]) as copy:
        for place, number in enumerate(documents.tolist()):
            fields = json.dumps({name: int(values[place]) for name, values in metadata.items()})
            name = f"report {number}.pdf"
            chunks = min(CHUNKS_PER_DOCUMENT, passages.count - number * CHUNKS_PER_DOCUMENT)
            await copy.write_row(
                (holding.first + number + 1, *ids, "upload", f"/reports/{number % 97}/{name}", name,
                 f"Report {number}", "application/pdf", 100_000, hashlib.sha256(name.encode()).digest(), chunks,
                 fields)
            )  # fmt: skip
    hashes = []
    async with connection.cursor().copy(_SQL["chunks"]) as copy:
        for number, text in enumerate(passages.texts(first, last), first):
            document, ordinal = divmod(number, CHUNKS_PER_DOCUMENT)
            hashes.append(hashlib.sha256(text.encode()).digest()[:16])
            await copy.write_row(
                (holding.first + number + 1, *ids, holding.first + document + 1, ordinal, ordinal * 200,
                 ordinal * 200 + len(text), 60, "simple", hashes[-1], text)
            )  # fmt: skip
    block = np.zeros(last - first, _ROW)
    block["fields"], block["l0"], block["l1"], block["l2"] = 4, 8, 8, 16
    block["document"] = holding.first + np.arange(first, last) // CHUNKS_PER_DOCUMENT + 1
    block["id"] = np.arange(holding.first + first + 1, holding.first + last + 1)
    block["hash"] = np.frombuffer(b"".join(hashes), "V16")
    block["l3"], block["dimensions"] = 4 + 2 * DIMENSIONS, DIMENSIONS
    block["vector"] = passages.vectors(first, last)
    statement = _SQL["vectors"].format(vectors=vectors_table(pipeline.generation.id))
    async with connection.cursor().copy(statement) as copy:
        await copy.write(_SIGNATURE + block.tobytes() + _TRAILER)


async def _index(app: App, connection: AsyncConnection[Any], holding: Holding) -> None:
    """As the product does it after a bulk load: for a few vectors not at all."""
    started = time.perf_counter()
    step = await keep_index(app.database, holding.pipeline)
    seconds = time.perf_counter() - started
    await connection.execute(
        _SQL["note"].format(
            vectors=vectors_table(holding.pipeline.generation.id), seconds=sql.Literal(f"{seconds:.1f}")
        )
    )
    print(f"   {holding.tenant}: index {step.value} in {seconds:.0f} s", flush=True)


async def facts(connection: AsyncConnection[Any], holding: Holding) -> dict[str, Any]:
    """Of the index of a tenant's vectors: the seconds of its building, and bytes."""
    generation = holding.pipeline.generation.id
    vectors = sql.Literal(f"embedmill.vectors_{generation}")
    index = sql.Literal(f"embedmill.vectors_{generation}_hnsw")
    cursor = await connection.execute(_SQL["noted"].format(vectors=vectors))
    seconds = (await cursor.fetchone() or (None,))[0]
    cursor = await connection.execute(_SQL["sizes"].format(vectors=vectors, index=index))
    of_index, of_table, of_all = await cursor.fetchone() or (0, 0, 0)
    return {
        "index_build_seconds": seconds,
        "index_bytes": of_index,
        "vectors_bytes": of_table,
        "database_bytes": of_all,
    }


async def stored_vectors(connection: AsyncConnection[Any], holding: Holding) -> tuple[Integers, Floats]:
    """(ids, vectors) as they stand in the table."""
    statement = _SQL["stored_vectors"].format(vectors=vectors_table(holding.pipeline.generation.id))
    async with connection.cursor().copy(statement) as copy:
        read = b"".join([bytes(part) async for part in copy])
    rows = np.frombuffer(read[len(_SIGNATURE) : -len(_TRAILER)], _STORED_ROW)
    return rows["id"].astype(np.int64), rows["vector"].astype(np.float32)
