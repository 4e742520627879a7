"""The exact answers: which passages are nearest of those that a filter leaves, by the vectors as they are stored. Owns
the arithmetic; asks nobody."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.passages import Floats, Integers

_BLOCK = 100_000


def nearest(
    ids: Integers, vectors: Floats, queries: Floats, allowed: NDArray[np.bool_] | None, limit: int
) -> list[list[int]]:
    """For each query the ids of the nearest, by cosine, nearest first. `allowed[query, row]`, or for all queries."""
    best: list[tuple[NDArray[np.float32], Integers]] = []
    for rows in _blocks(len(ids)):
        block = vectors[rows] / np.linalg.norm(vectors[rows], axis=1, keepdims=True)
        scores = queries @ block.T
        if allowed is not None:
            scores[~np.broadcast_to(allowed[..., rows], scores.shape)] = -2
        place = np.argpartition(-scores, min(limit, scores.shape[1]) - 1, axis=1)[:, :limit]
        best.append((np.take_along_axis(scores, place, 1), ids[rows][place]))
    scores = np.concatenate([score for score, _ in best], axis=1)
    found = np.concatenate([each for _, each in best], axis=1)
    order = np.argsort(-scores, axis=1)[:, :limit]
    return [
        [int(found[line, place]) for place in places if scores[line, place] > -2]
        for line, places in enumerate(order)
    ]


def recall(found: list[list[int]], exact: list[list[int]]) -> float:
    """How much of what is nearest was found."""
    there = sum(len(set(mine) & set(true)) for mine, true in zip(found, exact, strict=True))
    return there / sum(map(len, exact))


def _blocks(rows: int) -> Iterator[slice]:
    for first in range(0, rows, _BLOCK):
        yield slice(first, min(first + _BLOCK, rows))
