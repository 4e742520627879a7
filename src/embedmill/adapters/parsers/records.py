"""Renders rows of named values as text that can be cut anywhere and still says what each value is: one
`name: value` a line, one record a paragraph. Shared by tables and JSON; must not read any format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from embedmill.adapters.parsers.text import clean, require_length
from embedmill.core.documents import Place

MAX_PLACES = 1000
"""Records are placed one by one up to this many, then in equal runs: places serve citations, not lookups."""

_HEADER_LOOKAHEAD_ROWS = 50
_MAX_HEADER_CHARS = 120


def render(
    records: Iterable[str], max_chars: int, *, start: int = 0, separator: str = "\n\n"
) -> tuple[str, list[Place]]:
    """The records as one text and where each (or each run of them) stands, labelled by number from 1.

    Stops with DocumentError("too_large") while unfolding, not after. Blank records keep their number.
    """
    parts: list[str] = []
    spans: list[tuple[int, int, int]] = []
    length = start
    for number, record in enumerate(records, start=1):
        text = clean(record).strip("\n")
        if not text.strip():
            continue
        if parts:
            parts.append(separator)
            length += len(separator)
        parts.append(text)
        spans.append((number, length, length + len(text)))
        length += len(text)
        require_length(length, max_chars)
    return "".join(parts), _places(spans)


def table_records(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """One text for each row below the header; without a header, for each row, its cells side by side."""
    source = iter(rows)
    first = list(islice(source, _HEADER_LOOKAHEAD_ROWS))
    names = header(first)
    if names is None:
        for row in chain(first, source):
            yield ", ".join(stripped for cell in row if (stripped := cell.strip()))
        return
    for row in chain(first[1:], source):
        yield "\n".join(_named_cells(names, row))


def header(rows: Sequence[Sequence[str]]) -> list[str] | None:
    """The names of the columns where the first row is one of names: all filled, all different, no numbers,
    and the rows below have about as many cells. Empty cells at the end of a row are often left out."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    names = [" ".join(cell.split()) for cell in rows[0]]
    if len({name.casefold() for name in names}) < len(names):
        return None
    if not all(name and len(name) <= _MAX_HEADER_CHARS and not _is_value(name) for name in names):
        return None
    alike = sum(len(names) <= 2 * len(row) <= 2 * len(names) + 2 for row in rows[1:])
    return names if alike * 2 >= len(rows) - 1 else None


def _is_value(cell: str) -> bool:
    """Whether a cell holds a number, a date or an address rather than a name."""
    bare = cell.strip("+-$€£¥% ").replace(",", "").replace(".", "")
    if bare.isdigit() and not (len(bare) == 4 and bare.startswith(("19", "20"))):
        return True
    return "@" in cell or "://" in cell or (bare[:1].isdigit() and bare.count("-") == 2)


def _named_cells(names: Sequence[str], row: Sequence[str]) -> Iterator[str]:
    for at, cell in enumerate(row):
        value = cell.strip()
        if value:
            yield f"{names[at] if at < len(names) else f'column {at + 1}'}: {value}"


def _places(spans: Sequence[tuple[int, int, int]]) -> list[Place]:
    run = -(-len(spans) // MAX_PLACES) or 1
    places = []
    for at in range(0, len(spans), run):
        (first, start, _), (last, _, end) = spans[at], spans[min(at + run, len(spans)) - 1]
        places.append(Place("record", str(first) if first == last else f"{first}-{last}", start, end))
    return places
