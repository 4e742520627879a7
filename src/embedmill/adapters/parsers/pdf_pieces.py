"""Takes the two readings of a PDF page apart: Markdown into units that are kept or given up as a whole, plain
text into lines, of which some only run along with the pages. Must not compare the two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import median

import msgspec

WORD = re.compile(r"\w+")

_LEADERS = re.compile(r"[ \t]*\*?(?:\.[ \t\u00a0]?){5,}\*?[ \t]*|[ \t]*\*?…{3,}\*?[ \t]*")
_RULE = re.compile(r" {0,3}(?:-{3,}|\*{3,}|_{3,})[ \t]*")
_ONE_COLUMN = re.compile(r"\| *:?-+:? *\| *")
_PIECE = re.compile(r"\S+(?: {1,2}\S+)*")
_NUMBERS = re.compile(r"\d+")
_ROMAN = re.compile(r"[ivxlc]+")
_EDGE_LINES = 2
_MIN_REPEATS = 3
# Columns of running text are filled from edge to edge, the cells of a table are short or ragged.
_MIN_COLUMN_CHARS = 18
_MIN_COLUMN_ROWS = 6
_MIN_FILLED = 0.75
_MAX_TABLES = 30  # on a page; each is looked for from every line on


class Unit(msgspec.Struct):
    """A paragraph, a list item, a table, a block of code; or a blank line, without words."""

    text: str
    words: list[str]


class Line(msgspec.Struct):
    """A line of the plain text, with the number of words before it on the page. `runs_along`: it is a page
    number or repeats at the edge of many pages, and need not stand in the text."""

    text: str
    words: list[str]
    start: int
    runs_along: bool


def running_lines(pages: Sequence[str], headings: Iterable[str]) -> list[frozenset[str]]:
    """For each of the plain pages the keys of the lines that run along there: what stands first or last on
    many of them, whatever its numbers, and was seen before. A heading is never one."""
    outermost = [_outermost(page.split("\n")) for page in pages]
    seen = Counter(key for keys in outermost for key in keys)
    running = {key for key, count in seen.items() if count >= _MIN_REPEATS} - set(map(_line_key, headings))
    told: set[str] = set()
    found = []
    for keys in outermost:
        found.append(frozenset(running & keys & told))
        told |= keys
    return found


def without_leaders(text: str) -> str:
    """Rows of dots, which lead the eye to a page number, cost a hundred tokens and say nothing."""
    return _LEADERS.sub(" … ", text)


def units_of(markdown: str, running: frozenset[str]) -> list[Unit]:
    """The units in order, without rules and without the running lines that liteparse left at the edges."""
    texts: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        is_row = line.startswith("|") and bool(texts) and texts[-1].startswith("|")
        together = bool(texts) and (fenced or is_row)
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if together:
            texts[-1] += f"\n{line}"
        elif line.strip() and not _RULE.fullmatch(line):
            texts.append(line)
        elif texts and texts[-1]:
            texts.append("")
    units = [Unit(part, WORD.findall(part)) for text in texts for part in _rows(text)]
    kept = [unit for unit in units if _line_key(unit.text) not in running]
    return kept if any(unit.words for unit in kept) else units


def lines_of(plain: str, running: frozenset[str]) -> list[Line]:
    texts = plain.split("\n")
    spoken = [at for at, text in enumerate(texts) if text.strip()]
    edges = {*spoken[:_EDGE_LINES], *spoken[-_EDGE_LINES:]}
    lines: list[Line] = []
    start = 0
    for at, text in enumerate(texts):
        words = WORD.findall(text)
        runs_along = at in edges and (_line_key(text) in running or _is_page_number(text))
        lines.append(Line(text, words, start, runs_along))
        start += len(words)
    return lines


def stand_in_columns(lines: Sequence[Line]) -> bool:
    """Whether a good part of the page is running text side by side, which plain lines run across."""
    rows = [_PIECE.findall(line.text) for line in lines if line.words]
    beside = [row for row in rows if len(row) > 1]
    if len(beside) < _MIN_COLUMN_ROWS:
        return False
    columns = Counter(len(row) for row in beside).most_common(1)[0][0]
    usual_rows = [row for row in beside if len(row) == columns]
    return all(_is_filled([len(row[at]) for row in usual_rows]) for at in range(columns))


def trusting_tables(lines: Sequence[Line], units: Sequence[Unit]) -> list[Line]:
    """The lines in which those that a table of the Markdown is made of, to the letter, are in its order: with
    rules around its cells liteparse sees them better than lines can tell."""
    letters = [sum(map(len, line.words)) for line in lines]
    ends = {total: at for at, total in reversed(list(enumerate(accumulate(letters))))}
    totals = [0, *accumulate(letters)]
    trusted = list(lines)
    for unit in [unit for unit in units if unit.text.startswith("|") and unit.words][:_MAX_TABLES]:
        wanted = Counter("".join(unit.words))
        for start, total in enumerate(totals[:-1]):
            end = ends.get(total + wanted.total())
            if letters[start] and end is not None and _letters(lines[start : end + 1]) == wanted:
                trusted[start : end + 1] = _as_one(lines[start : end + 1], unit.words)
                break
    return trusted


def _letters(lines: Sequence[Line]) -> Counter[str]:
    return Counter("".join(word for line in lines for word in line.words))


def _as_one(lines: Sequence[Line], words: list[str]) -> list[Line]:
    """The first of the lines with all the words, the others without any."""
    text = "\n".join(line.text for line in lines)
    return [Line(text, words, 0, False), *(Line("", [], 0, True) for _ in lines[1:])]


def numbered(lines: Sequence[Line]) -> list[Line]:
    """The lines, each with the number of words before it."""
    starts = accumulate((len(line.words) for line in lines), initial=0)
    return [
        Line(line.text, line.words, start, line.runs_along)
        for line, start in zip(lines, starts, strict=False)
    ]


def _is_filled(lengths: list[int]) -> bool:
    widest = sorted(lengths)[-1 - len(lengths) // 20]  # but for a few that reach into the gap
    return widest >= _MIN_COLUMN_CHARS and median(lengths) >= _MIN_FILLED * widest


def _rows(unit: str) -> list[str]:
    """A table of one column is none: its rows are paragraphs."""
    rows = unit.split("\n")
    if not any(_ONE_COLUMN.fullmatch(row) for row in rows[1:2]):
        return [unit]
    return [part for row in rows if not set(row) <= set("|- :") for part in (row.strip(" |"), "")]


def _outermost(lines: Sequence[str]) -> set[str]:
    """The keys of the first and the last line of a page but for page numbers."""
    spoken = [line for line in lines if line.strip() and not _is_page_number(line)]
    return {key for line in (*spoken[:1], *spoken[-1:]) if (key := _line_key(line))}


def _line_key(line: str) -> str:
    return _NUMBERS.sub("#", " ".join(WORD.findall(line)).casefold())


def _is_page_number(line: str) -> bool:
    bare = line.strip(" -–—.|")
    return len(bare) <= 6 and (bare.isdigit() or bool(_ROMAN.fullmatch(bare)))
