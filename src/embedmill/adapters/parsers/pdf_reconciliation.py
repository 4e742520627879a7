"""Holds liteparse's Markdown of a page against its plain text, and puts the plain lines in wherever the
Markdown lost words or scrambled their order, as it does with tables without rules. Must not know of PDF."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import accumulate

from embedmill.adapters.parsers.markdown import unescaped
from embedmill.adapters.parsers.pdf_pieces import (
    WORD,
    Line,
    Unit,
    lines_of,
    numbered,
    stand_in_columns,
    trusting_tables,
    units_of,
    without_leaders,
)

# Comparing takes as many steps as there are pairs of equal words, and again as pieces times words; a page of
# one word repeated, or of a book's length, is not worth it.
_MAX_PAIRS = 1_000_000
_MAX_STEPS = 40_000_000
# Words that may only have been joined to others are looked for among all letters, up to this many.
_MAX_CUT_WORDS = 1000
_HEADING_MARK = re.compile(r"^(#{1,6} )", re.MULTILINE)
_ENTRY = re.compile(r" … ?[\divxlc]{0,6}$")
_STRUCTURED = ("#", "|", "```")
_ENDS = (".", ":", "!", "?", ")", '"', "”", "…")


def reconciled(markdown: str, plain: str, running: frozenset[str]) -> str:
    """The Markdown with all words of the plain text, in its order; lines that run along are left out.

    Of text in columns the Markdown's order is taken, and words that it lost come at the end of the page.
    """
    lines = lines_of(without_leaders(plain), running)
    units = _with_true_headings(units_of(unescaped(without_leaders(markdown)), running), lines)
    page = _Page(units, numbered(trusting_tables(lines, units)))
    if not page.is_settled and (not page.is_comparable() or stand_in_columns(lines)):
        return "\n".join([_text(unit.text for unit in units), "", *page.lost()]).strip("\n")
    return page.merged()


class _Page:
    """The two readings of one page. Words are compared by their letters, one after the other, so that one
    that was cut at the end of a line is the same as the whole."""

    def __init__(self, units: Sequence[Unit], lines: Sequence[Line]) -> None:
        self._units = units
        self._lines = lines
        self._theirs = [word for line in lines for word in line.words]
        self._ours = [word for unit in units for word in unit.words]
        self._wanted = [not line.runs_along for line in lines for _ in line.words]
        lengths = [sum(map(len, unit.words)) for unit in units]
        self._unit_starts = [0, *accumulate(lengths)][:-1]
        self._word_starts = [0, *accumulate(map(len, self._ours))]
        self.is_settled = "".join(self._ours) == "".join(
            word for word, wanted in zip(self._theirs, self._wanted, strict=True) if wanted
        )

    def is_comparable(self) -> bool:
        if len(self._theirs) * len(self._ours) > _MAX_STEPS:
            return False
        mine = Counter(self._ours)
        return sum(count * mine[word] for word, count in Counter(self._theirs).items()) <= _MAX_PAIRS

    def merged(self) -> str:
        """The units whose words all stand where they should, and between them the lines that the others made
        up."""
        found = self._found()
        out: list[str | int] = []  # text, or the unit that comes here
        run: list[str] = []
        breaks: dict[int, list[int]] = {}
        last, blank = -1, False
        for line in self._lines:
            offsets = [at for at in found[line.start : line.start + len(line.words)] if at is not None]
            if not offsets:
                if not line.runs_along and (line.words or run):
                    run.append(line.text)
                blank = blank or not line.words
                continue
            unit = self._unit_at(offsets[0])
            if blank and unit == last:
                breaks.setdefault(unit, []).append(offsets[0] - self._unit_starts[unit])
            out += ["", paragraph(run), ""] if run else []
            run, blank = [], False
            for each in dict.fromkeys(self._unit_at(at) for at in offsets):
                if each > last:
                    out += [*self._gap(last, each), each]
                    last = each
        out += ["", paragraph(run)]
        return _text(
            _broken(self._units[part], breaks.get(part, [])) if isinstance(part, int) else part
            for part in out
        )

    def _gap(self, before: int, unit: int) -> list[str]:
        """A blank line where the Markdown has one between two units: the items of a list stay together."""
        return [""] if any(not between.text for between in self._units[before + 1 : unit]) else []

    def _found(self) -> list[int | None]:
        """For each word of the plain text its offset in our letters; None for one that is nowhere, or in a
        unit that is given up."""
        if self.is_settled:
            lengths = [
                len(word) if wanted else 0 for word, wanted in zip(self._theirs, self._wanted, strict=True)
            ]
            offsets = [0, *accumulate(lengths)]
            return [at if wanted else None for at, wanted in zip(offsets, self._wanted, strict=False)]
        found: list[int | None] = [None] * len(self._theirs)
        spoilt: set[int] = set()
        matcher = SequenceMatcher(None, self._theirs, self._ours, autojunk=False)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            same = tag == "equal" or "".join(self._theirs[i1:i2]) == "".join(self._ours[j1:j2])
            if same:
                lengths = [len(word) for word in self._theirs[i1:i2]]
                found[i1:i2] = [self._word_starts[j1] + at for at in [0, *accumulate(lengths)][:-1]]
            else:
                spoilt |= {self._unit_at(at) for at in self._word_starts[j1:j2]}
                if 0 < j1 < len(self._ours) and any(self._wanted[i1:i2]):
                    before = self._unit_at(self._word_starts[j1 - 1])
                    spoilt |= {before} & {self._unit_at(self._word_starts[j1])}
        return self._without_halves(found, spoilt)

    def _without_halves(self, found: list[int | None], spoilt: set[int]) -> list[int | None]:
        """A unit is given up, too, with a line that it shares with lost words, so that the rows of a table stay
        whole; and so on along the lines of that unit."""
        lines_of_unit: dict[int, list[int]] = {}
        units_on_line: list[set[int]] = []
        for at, line in enumerate(self._lines):
            span = found[line.start : line.start + len(line.words)]
            units_on_line.append({self._unit_at(offset) for offset in span if offset is not None})
            for unit in units_on_line[at]:
                lines_of_unit.setdefault(unit, []).append(at)
            if None in span and not line.runs_along:
                spoilt |= units_on_line[at]
        waiting = list(spoilt)
        while waiting:
            for at in lines_of_unit.get(waiting.pop(), ()):
                fresh = set() if self._lines[at].runs_along else units_on_line[at] - spoilt
                spoilt |= fresh
                waiting += fresh
        return [None if at is None or self._unit_at(at) in spoilt else at for at in found]

    def lost(self) -> Iterator[str]:
        """The lines with words that the Markdown has nowhere."""
        lost = set(self._theirs) - set(self._ours)
        if len(lost) <= _MAX_CUT_WORDS:
            letters = "".join(self._ours)
            lost = {word for word in lost if word not in letters}
        for line in self._lines:
            if not line.runs_along and not lost.isdisjoint(line.words):
                yield paragraph([line.text])

    def _unit_at(self, offset: int) -> int:
        return bisect_right(self._unit_starts, offset) - 1


def _with_true_headings(units: Sequence[Unit], lines: Sequence[Line]) -> list[Unit]:
    """Without the headings that are none: entries of a table of contents, and lines of code or configuration
    that begin with the sign themselves."""
    literal = [line.words for line in lines if line.words and line.text.lstrip().startswith("#")]
    kept = []
    for unit in units:
        if _HEADING_MARK.match(unit.text):
            if _ENTRY.search(unit.text):
                unit.text = _HEADING_MARK.sub("", unit.text)
            elif any(unit.words[: len(words)] == words for words in literal):
                unit.text = f"\\{unit.text}"
        kept.append(unit)
    return kept


def paragraph(run: Sequence[str]) -> str:
    """Plain lines as they stand, moved to the left edge together; none of them becomes a heading."""
    indent = min((len(line) - len(line.lstrip()) for line in run if line.strip()), default=0)
    return _HEADING_MARK.sub(r"\\\1", "\n".join(line[indent:].rstrip() for line in run)).strip("\n")


def _broken(unit: Unit, breaks: Sequence[int]) -> str:
    """The unit with paragraphs where the plain text has blank lines; the Markdown often runs them together."""
    if not breaks or unit.text.startswith(_STRUCTURED):
        return unit.text
    wanted = set(breaks)
    parts: list[str] = []
    start = letters = 0
    for word in WORD.finditer(unit.text):
        before = unit.text[start : word.start()]
        cut = before.rfind(" ") + 1
        sentence = before[:cut].rstrip(" *_")
        if letters in wanted and sentence and (sentence.endswith(_ENDS) or word.group()[0].isupper()):
            parts.append(before[:cut].rstrip())
            start += cut
        letters += len(word.group())
    return "\n\n".join([*parts, unit.text[start:]])


def _text(parts: Iterable[str]) -> str:
    """The parts a line each, one blank line at most between them."""
    kept: list[str] = []
    for part in parts:
        if part or (kept and kept[-1]):
            kept.append(part)
    return "\n".join(kept).strip("\n")
