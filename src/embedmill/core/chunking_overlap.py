"""What a chunk repeats of the one before: whole sentences where they fit, else whole words.

Owns the choice of the overlap's start. It depends on the text just before the cut alone, so that an edit
reaches one chunk further at most. A section's beginning repeats nothing of the section before.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from embedmill.core.chunking_parts import Kind, Strength
from embedmill.core.chunking_scale import Scale
from embedmill.core.chunking_units import Units

_TRIES = 4
_CHARACTERS_LOOKED_BACK = 16
_WORD_START = re.compile(r"(?<!\S)\S|(?<=[、，；：])[^\s、，；：]")


def choose_overlaps(
    text: str, units: Units, cuts: Sequence[int], scale: Scale, most_tokens: int
) -> list[int | None]:
    """For each chunk the offset from which it repeats its predecessor; None for no overlap. The model's own
    count of an overlap is at most `most_tokens`."""
    overlaps: list[int | None] = [None] * len(cuts)
    if most_tokens == 0:
        return overlaps
    candidates: dict[int, list[int]] = {}
    torn: list[int] = []
    for index in range(1, len(cuts)):
        last = units.kinds[cuts[index] - 1]
        if Kind.HEADING in (last, units.kinds[cuts[index]]):
            continue
        if starts := _unit_starts(units, cuts[index - 1], cuts[index], most_tokens):
            candidates[index] = starts
        elif last is Kind.PROSE:
            torn.append(index)
    candidates |= _word_starts(text, units, {index: cuts[index] - 1 for index in torn}, scale, most_tokens)
    while candidates:
        tried = [(index, starts.pop(0)) for index, starts in candidates.items()]
        counts = scale.count(text[start : units.ends[cuts[index] - 1]] for index, start in tried)
        for (index, start), tokens in zip(tried, counts, strict=True):
            if tokens - scale.special_tokens <= most_tokens:
                overlaps[index] = start
            if overlaps[index] is not None or not candidates[index]:
                del candidates[index]
    return overlaps


def _unit_starts(units: Units, previous_cut: int, cut: int, most_tokens: int) -> list[int]:
    """Where whole units before the cut begin that may fit together; the longest overlap first."""
    starts = []
    for at in range(cut - 1, previous_cut, -1):
        if units.kinds[at] is Kind.HEADING or units.weight(at, cut) > most_tokens:
            break
        if units.strengths[at] <= Strength.WORD:
            starts.append(units.starts[at])
    return starts[: -_TRIES - 1 : -1]


def _word_starts(
    text: str, units: Units, last_units: dict[int, int], scale: Scale, most_tokens: int
) -> dict[int, list[int]]:
    """The same by words, where not even the last unit fits whole; weighed for all chunks in one go."""
    places: dict[int, list[int]] = {}
    for index, unit in last_units.items():
        low = max(units.starts[unit] + 1, units.ends[unit] - most_tokens * _CHARACTERS_LOOKED_BACK)
        if starts := [match.start() for match in _WORD_START.finditer(text, low, units.ends[unit])]:
            places[index] = starts
    words = [
        text[start:end]
        for index, starts in places.items()
        for start, end in zip(starts, [*starts[1:], units.ends[last_units[index]]], strict=True)
    ]
    weights = iter(scale.weigh(words))
    fitting: dict[int, list[int]] = {}
    for index, starts in places.items():
        tokens = list(accumulate(reversed([next(weights) for _ in starts])))
        if count := bisect_right(tokens, most_tokens):
            fitting[index] = starts[len(starts) - count :][:_TRIES]
    return fitting
