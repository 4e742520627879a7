"""Compares two generations by what each finds nearest to chunks drawn at random. Owns the drawing and the figures;
asks no provider: the queries are vectors that stand."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries, vectors_table
from embedmill.embed.generation_states import Comparison, GenerationState

_SQL = load_queries("embedmill.embed", "comparison.sql")
NEAREST = 10
# A generation without an index is read whole for each query: then the samples are as many as this allows.
LONGEST_SECONDS = 60.0


async def compare_generations(
    database: Database,
    newer: GenerationState,
    older: GenerationState,
    *,
    samples: int,
    chance: random.Random,
    clock: Callable[[], float] = time.monotonic,
) -> Comparison | None:
    """The overlap of what both find, kept with the newer one; None where there is nothing to compare."""
    drawn = await database.fetch(
        _SQL["sample"].format(newer=vectors_table(newer.id), older=vectors_table(older.id)),
        {"fractions": [chance.random() for _ in range(samples)], "older_set": older.chunk_set},
    )
    by_documents = newer.chunk_set != older.chunk_set
    deadline = clock() + LONGEST_SECONDS
    overlaps: list[float] = []
    for chunk_id, document_id, older_chunk_id in drawn:
        if overlaps and clock() > deadline:
            break
        found = [
            await _nearest(database, generation, chunk, document_id if by_documents else None)
            for generation, chunk in ((newer, chunk_id), (older, older_chunk_id))
        ]
        most = max(len(each) for each in found)
        if most:
            overlaps.append(len(found[0] & found[1]) / most)
    if not overlaps:
        return None
    comparison = Comparison(
        with_number=older.number,
        samples=len(overlaps),
        things="documents" if by_documents else "chunks",
        median=statistics.median(overlaps),
        worst=min(overlaps),
        compared_at=datetime.now(UTC),
    )
    await database.fetch(
        _SQL["keep"],
        {"generation_id": newer.id, "comparison": msgspec.json.encode(comparison).decode()},
    )
    return comparison


async def _nearest(
    database: Database, generation: GenerationState, chunk_id: int, document_id: int | None
) -> set[int]:
    name = "nearest_chunks" if document_id is None else "nearest_documents"
    rows = await database.fetch(
        _SQL[name].format(vectors=vectors_table(generation.id)),
        {"chunk_id": chunk_id, "document_id": document_id, "limit": NEAREST},
    )
    return {row[0] for row in rows}
