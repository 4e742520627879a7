"""Reads CSV and TSV: each row becomes a paragraph of `column: value` lines, so that a passage cut from the
middle of a table still names its columns. Owns the choice of delimiter."""

from __future__ import annotations

import csv
import io
import sys

from embedmill.adapters.parsers import media_types as types
from embedmill.adapters.parsers.plain import read_text
from embedmill.adapters.parsers.records import render, table_records
from embedmill.adapters.parsers.text import document
from embedmill.core.documents import ParsedDocument

_DELIMITERS = ",;\t|"
_SAMPLE_CHARS = 64 * 1024
_SAMPLE_ROWS = 50


class DelimitedParser:
    def __init__(self, max_text_chars: int) -> None:
        self._max_text_chars = max_text_chars

    def parse(self, path: str, media_type: str) -> ParsedDocument:
        text, _ = read_text(path, self._max_text_chars)
        # The default limit of 128 KiB a field refuses good files; the text as a whole is bounded already.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        rows = csv.reader(io.StringIO(text), delimiter=_delimiter(text, media_type))
        rendered, places = render(table_records(rows), self._max_text_chars)
        return document(rendered, media_type, places=places)


def _delimiter(text: str, media_type: str) -> str:
    """The sign that cuts the first rows into the same number of cells, and into the most.

    Each candidate is tried by the real reader, so that signs inside quotes do not count; csv.Sniffer guesses
    letters and takes minutes on one long line.
    """
    preferred = "\t" if media_type == types.TSV else ","
    sample = text[:_SAMPLE_CHARS]
    best, best_score = preferred, 0.0
    for candidate in preferred + _DELIMITERS.replace(preferred, ""):
        widths = [
            len(row)
            for row, _ in zip(
                csv.reader(io.StringIO(sample), delimiter=candidate), range(_SAMPLE_ROWS), strict=False
            )
            if row
        ]
        if not widths:
            continue
        usual = max(set(widths), key=widths.count)
        score = widths.count(usual) / len(widths) * (1 if usual > 1 else 0) * (1 + min(usual, 50) / 1000)
        if score > best_score:
            best, best_score = candidate, score
    return best
