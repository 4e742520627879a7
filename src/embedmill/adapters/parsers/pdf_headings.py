"""Finds the headings of a PDF by the size of their letters and gives them their levels. Owns what a heading
looks like on a page; the Markdown around them is liteparse's, which misses some and splits others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Protocol

import msgspec

_LARGER = 1.15
"""A heading's letters are at least this much larger than those of the running text."""

_MAX_LINES = 3
_MAX_CHARS = 200
_MAX_ON_A_PAGE = 100
_LINE_GAP = 1.45
"""Lines of one heading follow each other within this multiple of the size of their letters."""

_NUMBER = re.compile(r"(\d{1,3}(?:\.\d{1,3})*)(\.?)[ \u00a0]+(?=\D)")
_PART = re.compile(r"(\d{1,3})\.\d{1,3}\b")
_HEADING = re.compile(r"(#{1,7}) +(.*\S)\s*")
_FINAL = (".", "!", "?", ":", ";", ",")
_WORD = re.compile(r"\w+")
_LEVELS = 6
_UNKNOWN = "#" * 7
_UNNUMBERED_LEVEL = 2


class Item(Protocol):
    """A run of letters on a page: its left upper corner, width and font size in points."""

    text: str
    x: float
    y: float
    width: float
    font_size: float | None


class _Line(msgspec.Struct):
    text: str
    size: float
    y: float


def body_size(pages: Iterable[Sequence[Item]]) -> float:
    """The font size in points that most letters have; 0 where no sizes are known."""
    letters: Counter[float] = Counter()
    for items in pages:
        for item in items:
            if item.font_size:
                letters[round(item.font_size, 1)] += len(item.text)
    return letters.most_common(1)[0][0] if letters else 0.0


def headings_on(items: Sequence[Item], body: float) -> list[str]:
    """The headings on a page, each on one line though it may run over several.

    None where large letters are no exception, as on a poster.
    """
    lines = _lines(items)
    large = [line.size >= body * _LARGER for line in lines]
    if not body or sum(large) * 2 > len(lines) + 2:
        return []
    found: list[list[_Line]] = []
    for at, line in enumerate(lines):
        if not large[at]:
            continue
        if at and large[at - 1] and found and _continues(found[-1][-1], line):
            found[-1].append(line)
        else:
            found.append([line])
    texts = (" ".join(line.text for line in lines) for lines in found if len(lines) <= _MAX_LINES)
    titles = [text for text in texts if len(text) <= _MAX_CHARS and _is_title(text)]
    return titles if len(titles) <= _MAX_ON_A_PAGE else []


def with_headings(markdown: str, headings: Sequence[str]) -> str:
    """The Markdown in which what stands alone and reads as one of the headings is marked as one.

    A heading cut in two becomes one again. One that liteparse did not see has a level of its own until
    `levelled` has seen the whole document.
    """
    pairs = [(words_key(heading), heading) for heading in headings]
    known = dict(pairs)
    lines = markdown.split("\n")
    marked: list[str] = []
    at, fenced = 0, False
    while at < len(lines):
        line = lines[at]
        if line.lstrip().startswith("```"):
            fenced = not fenced
        taken, key = (0, "") if fenced or not line.strip() else _heading_at(lines, at, known)
        if taken:
            mark = _HEADING.fullmatch(line)
            marked += [*_blank_after(marked), f"{mark.group(1) if mark else _UNKNOWN} {known[key]}", ""]
            at += taken
        else:
            parts = [line] if fenced else _parted(line, pairs)
            if line or fenced or not marked or marked[-1]:
                marked += parts[1:] if len(parts) > 1 and not (marked and marked[-1]) else parts
            at += 1
    return "\n".join(marked).rstrip("\n")


def levelled(pages: Sequence[str]) -> list[str]:
    """The pages with their numbered headings at the level that the number tells: `2.6.` below `2.`."""
    found = [heading for page in pages for heading in _headings(page)]
    chapters = {match.group(1) for _, title in found if (match := _PART.match(title))}
    numbered = [(mark, depth) for mark, title in found if (depth := _depth(title, chapters))]
    # Below a title of the whole document the chapters may stand one level down; the top ones tell.
    top = min((depth for _, depth in numbered), default=1)
    seen = Counter(len(mark) - depth for mark, depth in numbered if depth == top and mark != _UNKNOWN)
    offset = max(1 - top, seen.most_common(1)[0][0] if seen else 0)
    return [_relevelled(page, offset, chapters) for page in pages]


def words_key(text: str) -> str:
    """What two spellings of the same line have in common: its letters and digits."""
    return "".join(_WORD.findall(text)).casefold()


def _lines(items: Sequence[Item]) -> list[_Line]:
    """The lines of a page from top to bottom; a line is as large as its smallest letters of some length."""
    rows: list[list[Item]] = []
    for item in sorted((item for item in items if item.text.strip()), key=lambda item: item.y):
        if rows and abs(rows[-1][0].y - item.y) <= 0.3 * (item.font_size or 0):
            rows[-1].append(item)
        else:
            rows.append([item])
    return [
        _Line(
            " ".join(item.text.strip() for item in sorted(row, key=lambda item: item.x)),
            min(item.font_size or 0.0 for item in row),
            min(item.y for item in row),
        )
        for row in rows
    ]


def _continues(line: _Line, following: _Line) -> bool:
    return (
        abs(line.size - following.size) < 0.02 * line.size
        and 0 < following.y - line.y <= _LINE_GAP * line.size
        and not line.text.endswith(_FINAL)
        and not _NUMBER.match(following.text)
    )


def _is_title(text: str) -> bool:
    return (
        any(letter.isalpha() for letter in text)
        and not text.endswith((".", ",", ";"))
        and ". . ." not in text
    )


def _heading_at(lines: Sequence[str], at: int, known: Mapping[str, str]) -> tuple[int, str]:
    """How many lines from here, blank ones included, make up a known heading, and its key; (0, '') if none."""
    key = ""
    for end in range(at, min(len(lines), at + 2 * _MAX_LINES)):
        if lines[end].startswith(("|", "- ", ">")):
            break
        key += words_key(lines[end])
        if key in known:
            return end + 1 - at, key
        if not any(heading.startswith(key) for heading in known):
            break
    return 0, ""


def _parted(line: str, headings: Sequence[tuple[str, str]]) -> list[str]:
    """The headings that a heading of the Markdown was put together from; itself where it is one. `headings`
    are pairs of key and words."""
    match = _HEADING.fullmatch(line)
    if match is None:
        return [line]
    wanted = words_key(line)
    for start in range(len(headings)):
        rest = wanted
        for end in range(start, min(len(headings), start + _MAX_LINES)):
            key, _ = headings[end]
            if not rest.startswith(key):
                break
            rest = rest.removeprefix(key)
            if not rest:
                parts = headings[start : end + 1]
                return [part for _, words in parts for part in ("", f"{match.group(1)} {words}")]
    return [line]


def _headings(page: str) -> Iterable[tuple[str, str]]:
    return ((match.group(1), match.group(2)) for _, match in _marked(page.split("\n")))


def _depth(title: str, chapters: Set[str]) -> int | None:
    """How deep the number of a heading says it stands. "10 things to know" has a number, too, but only a
    chapter has parts that repeat it."""
    match = _NUMBER.match(title)
    if match is None or not chapters:
        return None
    number, dot = match.groups()
    return None if number.isdigit() and not dot and number not in chapters else number.count(".") + 1


def _relevelled(page: str, offset: int, chapters: Set[str]) -> str:
    lines = page.split("\n")
    for at, match in _marked(lines):
        mark, title = match.groups()
        depth = _depth(title, chapters)
        level = _UNNUMBERED_LEVEL if mark == _UNKNOWN else len(mark)
        lines[at] = f"{'#' * (level if depth is None else min(_LEVELS, depth + offset))} {title}"
    return "\n".join(lines)


def _marked(lines: Sequence[str]) -> Iterable[tuple[int, re.Match[str]]]:
    fenced = False
    for at, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        match = None if fenced else _HEADING.fullmatch(line)
        if match:
            yield at, match


def _blank_after(lines: Sequence[str]) -> list[str]:
    return [""] if lines and lines[-1] else []
