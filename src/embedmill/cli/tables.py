"""Listings for people: columns, times, long words shortened to the terminal. Owns how things are written; must not
know what they mean."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

_TWO_OF_IT = 2
_SHORTEST = 12


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> None:
    """Columns as wide as they need; those whose titles stand in `right` are set to the right. On a terminal the last
    column is shortened to what is left of the line; programs get it whole."""
    if not rows:
        return
    widths = [max(len(line[i]) for line in (titles, *rows)) for i in range(len(titles))]
    left_over = _line_width() - sum(widths[:-1]) - 2 * (len(titles) - 1)
    for line in (titles, *rows):
        cells = [
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(line[:-1], widths[:-1], titles[:-1], strict=True)
        ]
        print("  ".join([*cells, shorten(line[-1], left_over)]).rstrip())


def print_below(text: str, *, indent: int, wrap: bool = False) -> None:
    """A line that belongs to what stands above it: on a terminal shortened, or broken where it is to be read
    whole."""
    line = " ".join(text.split())
    room = _line_width() - indent
    for part in textwrap.wrap(line, max(room, _SHORTEST)) if wrap else [shorten(line, room)]:
        print(" " * indent + part)


def shorten(text: str, width: int) -> str:
    """A text that fits, with the end kept where it is a path: there the file's name stands."""
    width = max(width, _SHORTEST)
    if len(text) <= width:
        return text
    if "/" in text and " " not in text:
        return "…" + text[1 - width :]
    return text[: width - 1] + "…"


def span(seconds: float) -> str:
    """A length of time in its largest unit: 42 s, 12 min, 3 h, 5 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= _TWO_OF_IT * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{max(seconds, 0):.1f} s"


def since(moment: datetime) -> str:
    """How long ago."""
    return span((datetime.now(UTC) - moment).total_seconds())


def local_time(moment: datetime) -> str:
    """As the clock on the wall shows it, with the day."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def count(number: int, noun: str) -> str:
    """1 item, 2,000 items."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def enumerate_counts(counts: dict[str, int]) -> str:
    """12 pending, 1 rate limited."""
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number)


def _line_width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
