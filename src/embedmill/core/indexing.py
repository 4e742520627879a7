"""When a generation has an HNSW index. Pure; owns the rule, not the building.

With the index in place a vector is inserted at 90-170 rows/s, without it at 16,000, and building it
afterwards is 6-8 times faster than inserting (shared notes, libraries.md): a bulk load therefore runs without
the index, a trickle with it. Search is exact meanwhile, so it is right either way.
"""

from __future__ import annotations

from enum import StrEnum

# Below this an exact scan is a few milliseconds and never misses a neighbour.
SMALLEST_INDEXED = 1_000
# How many candidates a vector's neighbours are chosen from (ef_construction). With three times pgvector's own number a
# search finds as much in two thirds of the steps; functions/81_searching.sql reckons with it.
INDEX_DEPTH = 200
# A load is bulk when building again is cheaper than inserting: twice what stands, and not a mere trickle.
BULK_WAITING = 20_000


class IndexStep(StrEnum):
    KEEP = "keep"
    BUILD = "build"
    DROP = "drop"


def next_index_step(*, embedded: int, waiting: int, has_index: bool, is_loading: bool = False) -> IndexStep:
    """What to do with the index of a generation of `embedded` vectors while `waiting` are still to come, and where
    `is_loading` nobody knows how many more."""
    is_bulk = waiting >= BULK_WAITING and waiting >= 2 * embedded
    if has_index:
        return IndexStep.DROP if is_bulk else IndexStep.KEEP
    if is_loading or embedded < SMALLEST_INDEXED or waiting > embedded // 10:
        return IndexStep.KEEP
    return IndexStep.BUILD
