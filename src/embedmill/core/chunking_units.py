"""Units: the smallest pieces that chunks are put together from, with their weight in tokens.

Owns cutting a part into sentences, lines, words or characters, and no finer than the budget asks.
Every decision is taken from the text beside it, so that an edit elsewhere changes nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from zlib import crc32

from embedmill.core.chunking_cutters import Cutter, character_runs, lines, sentences, word_groups
from embedmill.core.chunking_parts import Kind, Part
from embedmill.core.chunking_scale import CHARACTERS_PER_TOKEN, Scale


@dataclass(slots=True)
class Units:
    """Parallel lists, one entry for each unit, in the order of the text.

    `positions` are estimated tokens before each unit (and, last, of all), `gaps` those of the whitespace
    behind it; `keys` order the boundaries before the units by worth: strength, then a hash of the text.
    """

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    strengths: list[int] = field(default_factory=list)
    sections: list[int] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    def weight(self, low: int, high: int) -> int:
        """Estimated tokens of the units low to high - 1, without the whitespace behind the last."""
        return self.positions[high] - self.positions[low] - self.gaps[high - 1]


_Span = tuple[int, int, int, int, Kind]
"""Start, end, the strength of the boundary before, section, kind."""


def cut_into_units(text: str, parts: Iterable[Part], scale: Scale, target: int, limit: int) -> Units:
    """Sentences, lines, table rows, fences; one that is too heavy by its lines, then by groups of words, then
    by characters. What is to stay whole may weigh `limit` tokens, all else `target`; more weighs only a
    single character."""
    spans: list[_Span] = []
    for part in parts:
        if part.kind is Kind.PROSE:
            strength = part.strength
            for start, end, behind in sentences(text, part.start, part.end):
                spans.append((start, end, strength, part.section, part.kind))
                strength = behind
        else:
            spans.append((part.start, part.end, part.strength, part.section, part.kind))
    weights = scale.weigh(text[span[0] : span[1]] for span in spans)
    for cutter in (lines, word_groups(target), *character_runs(target)):
        if max(weights, default=0) > target:
            spans, weights = _refine(text, spans, weights, scale, cutter, target, limit)
    return _measure(text, spans, weights, scale, limit)


def _refine(
    text: str, spans: list[_Span], weights: list[int], scale: Scale, cutter: Cutter, target: int, limit: int
) -> tuple[list[_Span], list[int]]:
    """The spans with every one that is too heavy cut once more, and the weights of all."""
    fine: list[_Span] = []
    known: list[int] = []
    for span, weight in zip(spans, weights, strict=True):
        low, high, strength, section, kind = span
        if weight <= (limit if kind is Kind.WHOLE else target):
            fine.append(span)
            known.append(weight)
            continue
        for start, end, behind in cutter(text, low, high):
            fine.append((start, end, strength, section, _torn(kind)))
            known.append(0)
            strength = behind
    fresh = iter(scale.weigh(text[fine[i][0] : fine[i][1]] for i, weight in enumerate(known) if not weight))
    return fine, [weight or next(fresh) for weight in known]


def _torn(kind: Kind) -> Kind:
    return Kind.PROSE if kind is Kind.WHOLE else kind


def _measure(text: str, spans: list[_Span], weights: list[int], scale: Scale, limit: int) -> Units:
    units = Units(
        starts=[span[0] for span in spans],
        ends=[span[1] for span in spans],
        strengths=[span[2] for span in spans],
        sections=[span[3] for span in spans],
        kinds=[span[4] for span in spans],
    )
    # A long run of whitespace weighs as much as a chunk, so that no chunk reaches over it.
    for end, start in zip(units.ends, units.starts[1:], strict=False):
        lines_end = start - end > 1 or (start > end and text[end] != " ")
        gap = scale.line_tokens if lines_end else 0
        units.gaps.append(min(gap + (start - end) // CHARACTERS_PER_TOKEN, limit))
    units.gaps += [0] if spans else []
    units.positions = [0, *accumulate(map(int.__add__, weights, units.gaps))]
    units.keys = [
        strength << 32 | crc32(text[start : min(end, start + 256)].encode())
        for start, end, strength, *_ in spans
    ]
    return units
