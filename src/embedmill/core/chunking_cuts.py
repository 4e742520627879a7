"""Where chunks begin: chosen so that an edit moves the cuts beside it and no others.

Owns arithmetic on weights and keys of boundaries; sees no text. A boundary becomes a cut when it outranks
those near it, by strength and then by a hash of the text behind it, never because it stands "so many tokens
after the last cut", which would shift everything behind an edit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import ceil

from embedmill.core.chunking_parts import Strength
from embedmill.core.chunking_units import Units

TINY_SECTION = 0.25
"""Of the target: a section below this is merged with a neighbour, where that fits."""

STRAY_SECTION = 0.1
"""Of the target: a section below this is merged even where the neighbour is then cut for it."""

# First paragraphs with even spacing, then paragraphs nearer to a cut, and only then sentences and words.
# Wider spacing fills the chunks no better and lets an edit change more of them (benchmarks/chunking.py).
_ROUNDS = ((Strength.SUBITEM, 0.4), (Strength.SUBITEM, 0.2), (Strength.CHARACTER, 0.4))
"""The weakest boundaries a round takes, and how far from other cuts, as a part of the target."""

_COSTS: dict[int, float] = {
    Strength.RULE: -0.2,
    Strength.BLOCK: 0.0,
    Strength.ITEM: 0.2,
    Strength.SUBITEM: 0.4,
    Strength.SENTENCE: 0.6,
    Strength.LINE: 1.2,
    Strength.CLAUSE: 1.4,
    Strength.WORD: 2.0,
    Strength.GLUED: 2.5,
    Strength.CHARACTER: 4.0,
}
_HEADING_COST = -1.0
_ANOTHER_CHUNK = 1.0


def choose_cuts(units: Units, target: int, limit: int) -> list[int]:
    """The first unit of each chunk, ascending, 0 included.

    A chunk weighs at most `target` (room for overlap is then left), a whole section at most `limit`; more
    only where a single unit does.
    """
    tiny = max(1, int(TINY_SECTION * target))
    sections = _thin(units, _ranked_headings(units, limit), 0, len(units), spacing=tiny, longest=0)
    cuts: list[int] = []
    for low, high in _pairs(sections, len(units)):
        if units.weight(low, high) <= limit:
            cuts.append(low)
            continue
        for first, end in _pairs(_set_tiny_sections_apart(units, low, high, target, limit), high):
            cuts += _divide(units, first, end, target)
    return cuts


def best_cut(units: Units, low: int, high: int, target: int) -> int:
    """The boundary in low + 1 .. high - 1 that is the best first cut on the way to chunks of `target`."""
    fewest = max(2, ceil(units.weight(low, high) / target))
    best, lowest = 0, float("inf")
    for count in (fewest, fewest + 1):
        for left in range(1, count):
            at, cost = _best_in_window(units, low, high, target * left, target * (count - left), target // 4)
            cost += _ANOTHER_CHUNK * (count - fewest)
            if at and cost < lowest:
                best, lowest = at, cost
    half = (units.positions[low] + units.positions[high]) // 2
    return best or min(bisect_left(units.positions, half, low + 1, high), high - 1)


def _pairs(cuts: Sequence[int], high: int) -> list[tuple[int, int]]:
    return list(zip(cuts, [*cuts[1:], high], strict=True))


# Sections


def _ranked_headings(units: Units, limit: int) -> list[int]:
    """Boundaries before headings, best first: the higher level, then where the sections beside it are too
    large to be merged, then by hash."""
    places = [at for at in range(1, len(units)) if units.strengths[at] <= Strength.DEEPEST_HEADING]
    edges = [0, *places, len(units)]
    ranked = []
    for index, at in enumerate(places, 1):
        together = units.weight(edges[index - 1], edges[index + 1])
        ranked.append((units.strengths[at], together <= limit, units.keys[at], at))
    return [at for *_, at in sorted(ranked)]


def _set_tiny_sections_apart(units: Units, low: int, high: int, target: int, limit: int) -> list[int]:
    """Cuts at headings that stand too near to others for `_thin`, in a run that has to be cut anyhow."""
    cuts = [low]
    for at in range(low + 1, high):
        if units.strengths[at] <= Strength.DEEPEST_HEADING:
            before, behind = units.weight(cuts[-1], at), units.weight(at, high)
            if min(before, behind) >= STRAY_SECTION * target or max(before, behind) <= limit:
                cuts.append(at)
    return cuts


# Runs without a heading to cut at


def _divide(units: Units, low: int, high: int, target: int) -> list[int]:
    runs = [low]
    for weakest, spacing in _ROUNDS:
        finer: list[int] = []
        for first, end in _pairs(runs, high):
            finer += _thin_run(units, first, end, weakest, max(1, int(spacing * target)), target)
        runs = finer
    cuts: list[int] = []
    for first, end in _pairs(runs, high):
        cuts += _divide_rest(units, first, end, target)
    return _merge(units, cuts, high, target)


def _thin_run(units: Units, low: int, high: int, weakest: int, spacing: int, target: int) -> list[int]:
    if units.weight(low, high) <= target:
        return [low]
    ranked = [at for at in range(low + 1, high) if units.strengths[at] <= weakest]
    ranked.sort(key=units.keys.__getitem__)
    return _thin(units, ranked, low, high, spacing=spacing, longest=target)


def _thin(
    units: Units, ranked: Sequence[int], low: int, high: int, *, spacing: int, longest: int
) -> list[int]:
    """Takes boundaries in the order given, each that is `spacing` away from all taken before it and from both
    ends, inside a run of more than `longest` (0: any). Whether one is taken depends on its betters near it.
    """
    positions = units.positions
    first, last = positions[low], positions[high]
    taken: dict[int, int] = {}  # by position // spacing: two that are taken never share a number
    reach = longest // spacing + 2
    chosen = [low]
    for at in ranked:
        position = positions[at]
        slot = position // spacing
        if (
            position - first < spacing
            or last - position < spacing
            or slot in taken
            or position - taken.get(slot - 1, first) < spacing
            or taken.get(slot + 1, last) - position < spacing
        ):
            continue
        if longest:
            left = next((taken[i] for i in range(slot - 1, slot - reach, -1) if i in taken), first)
            right = next((taken[i] for i in range(slot + 1, slot + reach) if i in taken), last)
            if right - left <= longest:
                continue
        taken[slot] = position
        chosen.append(at)
    return sorted(chosen)


def _divide_rest(units: Units, low: int, high: int, target: int) -> list[int]:
    """What the rounds had to leave too long, for want of boundaries with enough space around."""
    pending, cuts = [(low, high)], []
    while pending:
        first, end = pending.pop()
        if end - first > 1 and units.weight(first, end) > target:
            at = best_cut(units, first, end, target)
            pending += [(at, end), (first, at)]
        else:
            cuts.append(first)
    return cuts


def _merge(units: Units, cuts: list[int], high: int, target: int) -> list[int]:
    """Gives up cuts, the weakest first, between chunks that fit together."""
    following = dict(_pairs(cuts, high))
    previous = dict(zip(cuts[1:], cuts, strict=False))
    for at in sorted(cuts[1:], key=units.keys.__getitem__, reverse=True):
        if units.weight(previous[at], following[at]) <= target:
            before, behind = previous.pop(at), following.pop(at)
            following[before] = behind
            if behind != high:
                previous[behind] = before
    return list(following)


def _best_in_window(
    units: Units, low: int, high: int, most_left: int, most_right: int, small: int
) -> tuple[int, float]:
    """The best boundary, with its cost, that leaves at most so much on each side, and if possible no less
    than `small`; 0 if there is none."""
    positions = units.positions
    left = positions[high] - units.gaps[high - 1] - most_right
    right = positions[low] + most_left
    begin = bisect_left(positions, max(left, positions[low] + small), low + 1, high)
    end = bisect_right(positions, min(right, positions[high] - small), low + 1, high)
    if begin >= end:
        begin = bisect_left(positions, left, low + 1, high)
        end = bisect_right(positions, right, low + 1, high)
    if begin >= end:
        return 0, 0.0
    at = min(range(begin, end), key=units.keys.__getitem__)
    return at, _COSTS.get(units.strengths[at], _HEADING_COST)
