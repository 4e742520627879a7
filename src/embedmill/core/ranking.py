"""Fuses the two lists of a search: by meaning and by words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

# What the vectors count for beside the words (docs/decisions/0097-hits-fused-by-their-scores.md, benchmarks/words.py).
VECTOR_SHARE = 0.7
# Vectors that differ less have nothing to tell.
_LEAST_SPREAD = 1e-6


def fuse_scores(
    by_vector: Sequence[tuple[int, float]], by_text: Sequence[tuple[int, float]], chance: float | None
) -> list[tuple[int, float]]:
    """A convex combination of both scores (Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid
    Retrieval", 2023): seven parts similarity, three parts words, 0 to 1; best first. Ties go to the nearer vector, then
    to the smaller id, so that a page is the same twice.

    `by_vector`: (id, cosine similarity), best first; `by_text`: (id, share of the query's words by their weight).
    `chance` is the similarity of what has nothing to do with the query, which differs from model to model: what is
    above it counts. None, where nobody knows it: that of the last in the list. What a list does not have gets nothing
    from it.
    """
    above_chance = _above_chance(by_vector, chance)
    worths = dict(by_text)
    places = {found: place for place, (found, _) in enumerate(by_vector)}
    scores = {
        found: VECTOR_SHARE * above_chance.get(found, 0.0) + (1 - VECTOR_SHARE) * worths.get(found, 0.0)
        for found in above_chance.keys() | worths.keys()
    }
    return sorted(scores.items(), key=lambda each: (-each[1], places.get(each[0], len(places)), each[0]))


def _above_chance(by_vector: Sequence[tuple[int, float]], chance: float | None) -> dict[int, float]:
    """How far on the way from chance (0) to the very same (1) each is; what is less like the query than chance is as
    good as what is not in the list."""
    if not by_vector:
        return {}
    floor = by_vector[-1][1] if chance is None else chance
    spread = max(1 - floor, _LEAST_SPREAD)
    return {found: min(max((similarity - floor) / spread, 0.0), 1.0) for found, similarity in by_vector}
