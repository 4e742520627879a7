"""What the layout of a text is described with: parts, sections, and the worth of the boundaries between."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Strength(IntEnum):
    """What the boundary before a part is worth as a cut; the smaller the better. 1 to 6 are headings."""

    HEADING = 1
    DEEPEST_HEADING = 6
    RULE = 7
    BLOCK = 8
    ITEM = 9
    SUBITEM = 10
    SENTENCE = 11
    LINE = 12
    CLAUSE = 13
    WORD = 14
    GLUED = 15  # between a heading and what it heads: a cut here strands the heading
    CHARACTER = 16


class Kind(IntEnum):
    """How a part may be cut further."""

    PROSE = 0
    WHOLE = 1  # a table row, or code: stays whole while it fits, then by lines
    HEADING = 2


@dataclass(slots=True)
class Section:
    """A heading with what follows it, up to the next heading. `path` ends with its own title."""

    path: tuple[str, ...]


@dataclass(slots=True)
class Part:
    """text[start:end] without outer whitespace, and what it is worth to cut before it."""

    start: int
    end: int
    strength: int
    kind: Kind
    section: int
