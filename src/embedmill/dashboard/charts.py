"""Charts as pages draw them: bars on a time axis, as SVG that is rendered here. Owns their geometry; colours are the
style sheet's, so that they follow light and dark; the same figures stand in a table for whoever cannot see them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

WIDTH, HEIGHT = 600.0, 120.0
_GAP = 0.2  # of a bar's room


class Bar(msgspec.Struct, frozen=True):
    """One stack of values of one moment, drawn bottom up. `label` names the moment; with `at`, the browser names it in
    the reader's zone."""

    label: str
    values: tuple[float, ...]
    at: datetime | None = None

    @property
    def at_utc(self) -> str:
        return "" if self.at is None else self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Piece(msgspec.Struct, frozen=True):
    """A rectangle: `series` is its place in the stack."""

    x: float
    y: float
    width: float
    height: float
    series: int


class Chart(msgspec.Struct, frozen=True):
    """Bars of several series. `top` is the value at the upper edge; `names` of the series."""

    title: str
    names: tuple[str, ...]
    bars: tuple[Bar, ...]
    top: float
    pieces: tuple[Piece, ...]
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def is_empty(self) -> bool:
        return not any(value for bar in self.bars for value in bar.values)

    @property
    def hovers(self) -> list[tuple[float, float, Bar]]:
        """(x, width, bar) of each moment, over the whole height."""
        room = self.width / max(len(self.bars), 1)
        return [(round(index * room, 2), round(room, 2), bar) for index, bar in enumerate(self.bars)]


def draw(title: str, names: Sequence[str], bars: Sequence[Bar]) -> Chart:
    """Place the bars. Values must not be negative."""
    top = round_up(max((sum(bar.values) for bar in bars), default=0.0))
    room = WIDTH / max(len(bars), 1)
    pieces = []
    for index, bar in enumerate(bars):
        y = HEIGHT
        for series, value in enumerate(bar.values):
            if not value:
                continue
            height = max(value / top * HEIGHT, 1.0)  # little is not nothing
            y -= height
            pieces.append(
                Piece(
                    round((index + _GAP / 2) * room, 2),
                    round(y, 2),
                    round(room * (1 - _GAP), 2),
                    round(height, 2),
                    series,
                )
            )
    return Chart(title, tuple(names), tuple(bars), top, tuple(pieces))


def round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten: what an axis shows."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))
