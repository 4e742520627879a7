"""Fuses rankings. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

# The constant of Cormack, Clarke and Büttcher (SIGIR 2009): flat enough that no single list decides alone.
RANK_CONSTANT = 60


def fuse_rankings(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: each list gives 1 / (60 + rank) to each of its ids, rank counted from 1.

    Returns (id, score), best first; ties go to the smaller id, so that a page is the same twice.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, identifier in enumerate(ranking, start=1):
            scores[identifier] += 1.0 / (RANK_CONSTANT + rank)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))
