"""Passages as a page of search shows them: escaped, the words of the query marked, and an excerpt around them. Pure;
owns what is marked and where a passage is cut."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec
from markupsafe import Markup, escape

BEGIN, END = "\ue000", "\ue001"
"""Around each word in what PostgreSQL gives back (search.sql: words_found)."""
EXCERPT_CHARACTERS = 360
_BEFORE = 80
_MARKED = re.compile(f"{BEGIN}([^{BEGIN}{END}]*){END}")


class Passage(msgspec.Struct, frozen=True):
    """`excerpt` is the whole passage where `rest` is False."""

    excerpt: Markup
    whole: Markup
    is_cut: bool


def words_in(headline: str) -> set[str]:
    """The words that stand between marks, as they are written; single letters only where there is nothing else."""
    words = {word for word in _MARKED.findall(headline) if word.strip()}
    return {word for word in words if len(word) > 1 or not word.isascii()} or words


def show_passage(text: str, words: Collection[str]) -> Passage:
    """Mark the words wherever they stand alone; the text itself is shown as it is, whatever it holds."""
    pattern = _pattern(words)
    whole = _mark(text, pattern)
    if len(text) <= EXCERPT_CHARACTERS:
        return Passage(whole, whole, is_cut=False)
    first = pattern.search(text) if pattern else None
    start = max(first.start() - _BEFORE, 0) if first else 0
    start = min(start, len(text) - EXCERPT_CHARACTERS)
    end = start + EXCERPT_CHARACTERS
    # Not within a word, where one ends nearby.
    if start:
        start += max(text[start : start + 30].find(" "), 0)
    if end < len(text):
        cut = text.rfind(" ", end - 30, end)
        end = cut if cut > start else end
    marked = _mark(text[start:end], pattern)
    excerpt = ("… " if start else "") + marked + (" …" if end < len(text) else "")
    return Passage(Markup(excerpt), whole, is_cut=True)  # noqa: S704 - put together of what was escaped


def _pattern(words: Collection[str]) -> re.Pattern[str] | None:
    if not words:
        return None
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def _mark(text: str, pattern: re.Pattern[str] | None) -> Markup:
    if pattern is None:
        return escape(text)
    marked, position = Markup(), 0
    for found in pattern.finditer(text):
        marked += escape(text[position : found.start()])
        marked += Markup("<mark>{}</mark>").format(found[0])
        position = found.end()
    return marked + escape(text[position:])
