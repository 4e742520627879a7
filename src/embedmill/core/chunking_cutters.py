"""Cutting one part of a text finer: into sentences, lines, groups of words, runs of characters.

Owns what ends a sentence and what must not be torn. Every decision is taken from the text beside the
place, so that an edit elsewhere changes nothing here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from zlib import crc32

from embedmill.core.chunking_parts import Strength

_BOUNDARY = re.compile(
    r"(?<=[.!?…؟।॥։።\"'”’»)\]*_])\s+"
    r"|[。！？｡]+[」』”’）】》\"')]*\s*"
    r"|[\n\r]\s*"
)
_CLOSERS = "\"'”’»)]*_"
_ENDINGS = ".!?…؟।॥։።"
_ABBREVIATIONS = frozenset(
    "al approx art cf ch co corp dept dr e.g ed eds eq esp est etc fig figs gen gov i.e inc jr ltd mr mrs ms "  # noqa: SIM905
    "nos op p pp prof ref rev sec sen sr st vol vs".split()
)
_BREAK = re.compile(r"[\n\r]\s*")
_WORD = re.compile(r"[^\s、，；：]+[、，；：]*|[、，；：]+")
_CLAUSE_ENDS = ",;:、，；："

Cut = tuple[int, int, int]
"""Start and end of a piece, and the strength of the boundary behind it (not used for the last piece)."""

Cutter = Callable[[str, int, int], Iterator[Cut]]


def sentences(text: str, start: int, end: int) -> Iterator[Cut]:
    """Sentences and lines of prose. Lines that were merely wrapped are worth less than sentences."""
    line_start = start
    for match in _BOUNDARY.finditer(text, start, end):
        gap, after = match.start(), match.end()
        if after == end:
            break
        is_break = after - gap > 1 or text[gap] != " "
        is_break = is_break and (text.find("\n", gap, after) >= 0 or text.find("\r", gap, after) >= 0)
        worth = _worth(text, start, gap, after, line_start if is_break else -1)
        if is_break:
            line_start = after
        if worth:
            yield start, trimmed(text, start, after), worth
            start = after
    yield start, end, 0


def _worth(text: str, start: int, gap: int, after: int, line_start: int) -> int:
    """The strength of the boundary at text[gap:after]; `line_start` is -1 where no line ends; 0 is none."""
    if text[gap] in "。！？｡" or _ends_sentence(text, start, gap, text[after]):
        return Strength.SENTENCE
    if line_start < 0:
        return 0
    # A line that ends early, or is followed by no lower-case word, is a record; another was wrapped.
    following = text[after]
    wrapped = following.islower() or (50 <= gap - line_start <= 100 and following.isalnum())
    return Strength.LINE if wrapped else Strength.SENTENCE


def _ends_sentence(text: str, start: int, gap: int, following: str) -> bool:
    last = gap - 1
    while last > start and gap - last < 4 and text[last] in _CLOSERS:
        last -= 1
    if text[last] not in _ENDINGS or following.islower():
        return False
    if text[last] != ".":
        return True
    word = text[max(start, last - 8, text.rfind(" ", max(start, last - 9), last) + 1) : last].lstrip("([\"'")
    return not (len(word) == 1 and word.isalpha()) and word.lower() not in _ABBREVIATIONS


def trimmed(text: str, start: int, end: int) -> int:
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def lines(text: str, start: int, end: int) -> Iterator[Cut]:
    """Lines of code; a blank line is worth a sentence's end."""
    at = start
    for match in _BREAK.finditer(text, start, end):
        blank = text.count("\n", match.start(), match.end()) > 1
        yield at, trimmed(text, at, match.start()), Strength.SENTENCE if blank else Strength.LINE
        at = match.end()
    yield at, end, 0


def word_groups(budget: int) -> Cutter:
    """Single words for a small budget, groups of some words for a large one. A group ends where its last
    word's hash says so: the same words make the same groups, wherever they stand."""
    mask = (1 << max(0, (budget // 48).bit_length())) - 1

    def cut(text: str, start: int, end: int) -> Iterator[Cut]:
        at, count = -1, 0
        for match in _WORD.finditer(text, start, end):
            if at < 0:
                at = match.start()
            count += 1
            last = text[match.end() - 1]
            if last in _CLAUSE_ENDS or count > 2 * mask or not crc32(match[0].encode()) & mask:
                yield at, match.end(), Strength.CLAUSE if last in _CLAUSE_ENDS else Strength.WORD
                at, count = -1, 0
        if at >= 0:
            yield at, trimmed(text, at, end), 0

    return cut


def character_runs(budget: int) -> Iterator[Cutter]:
    size = max(1, min(32, budget // 2))
    while True:
        yield _runs_of(size)
        if size == 1:
            return
        size = max(1, size // 4)


def _runs_of(size: int) -> Cutter:
    def cut(text: str, start: int, end: int) -> Iterator[Cut]:
        while end - start > size:
            at = _after_symbol(text, start + (size + 1) // 2, start + size)
            at = grapheme_end(text, at, end)
            if at >= end:
                break
            yield start, trimmed(text, start, at), Strength.CHARACTER
            start = at
            while start < end and text[start].isspace():
                start += 1
        if start < end:
            yield start, end, 0

    return cut


def _after_symbol(text: str, low: int, high: int) -> int:
    """The last place in low..high behind a symbol such as a comma or a bracket; `high` if there is none."""
    for at in range(high, low, -1):
        if not text[at - 1].isalnum() and text[at - 1].isascii():
            return at
    return high


def grapheme_end(text: str, at: int, end: int) -> int:
    """The first place from `at` on where a cut tears no combining sequence; looks 32 characters far."""
    for place in range(at, min(end, at + 32)):
        if not _extends(text, place):
            return place
    return min(at, end)


def _extends(text: str, at: int) -> bool:
    before, here = text[at - 1], text[at]
    if here.isascii():
        return False
    if before == "\u200d" or here in "\u200d\u20e3" or "\U0001f3fb" <= here <= "\U0001f3ff":
        return True
    if _is_flag_half(here) and _is_flag_half(before):
        first = at - 1
        while first and _is_flag_half(text[first - 1]) and at - first < 64:
            first -= 1
        return bool((at - first) % 2)
    return unicodedata.category(here) in ("Mn", "Me", "Mc", "Cf") or "\u1160" <= here <= "\u11ff"


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
