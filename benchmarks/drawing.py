"""Bars and lines as SVG. Owns how they look, on light and on dark pages (a panel of their own beneath, colours by
`prefers-color-scheme`); knows no result file.

Written by hand: text and rectangles need no library, and what a library writes differs between its versions, while
these pictures are compared byte for byte with what is committed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
MARGIN = 24
LETTER = 7.8  # the width of one in the bold font of 13, generously; only labels are placed by it

_STYLE = """
  .panel { fill: #ffffff; stroke: #d6d3d1 }
  text { fill: #292524; font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
  .title { font-size: 16px; font-weight: 600 }
  .quiet { fill: #57534e; font-size: 12px }
  .right { text-anchor: end }
  .middle { text-anchor: middle }
  .ours { fill: #c2410c } .ours-text { font-weight: 600 }
  .other { fill: #a8a29e }
  .grid { stroke: #e7e5e4 } .limit { stroke: #57534e; stroke-dasharray: 5 4 }
  .line { fill: none; stroke-width: 2.5 }
  .c0 { stroke: #c2410c } .c1 { stroke: #0369a1 } .c2 { stroke: #15803d } .c3 { stroke: #7e22ce }
  .f0 { fill: #c2410c } .f1 { fill: #0369a1 } .f2 { fill: #15803d } .f3 { fill: #7e22ce }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #1c1917; stroke: #44403c }
    text { fill: #f5f5f4 } .quiet { fill: #a8a29e }
    .ours { fill: #fb923c } .other { fill: #78716c }
    .grid { stroke: #292524 } .limit { stroke: #a8a29e }
    .c0 { stroke: #fb923c } .c1 { stroke: #38bdf8 } .c2 { stroke: #4ade80 } .c3 { stroke: #c084fc }
    .f0 { fill: #fb923c } .f1 { fill: #38bdf8 } .f2 { fill: #4ade80 } .f3 { fill: #c084fc }
  }
"""
_LINE_COLOURS = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that are compared with each other; the longest fills the width."""

    title: str
    bars: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """Points from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(title: str, note: str, groups: Sequence[Group], ours: str) -> str:
    """Groups of bars, each group in a scale of its own; bars whose names begin with `ours` stand out."""
    labels = max(len(name) for group in groups for name, _ in group.bars) * LETTER + 12
    figures = max(len(_figure(value)) for group in groups for _, value in group.bars) * LETTER + 12
    left, room = MARGIN + labels, WIDTH - 2 * MARGIN - labels - figures
    parts, top = [*_heading(title, note)], 84.0
    for group in groups:
        longest = max(value for _, value in group.bars) or 1
        parts.append(_text(MARGIN, top, group.title, "quiet"))
        top += 10
        for name, value in group.bars:
            is_ours = name.startswith(ours)
            kind = "ours" if is_ours else "other"
            length = max(1.0, room * value / longest)
            weight = "ours-text" if is_ours else ""
            parts.append(_text(left - 8, top + 12, name, f"right {weight}"))
            parts.append(
                f'<rect class="{kind}" x="{_n(left)}" y="{_n(top)}" width="{_n(length)}" height="15" rx="2"/>'
            )
            parts.append(_text(left + length + 6, top + 12, _figure(value), weight))
            top += 19
        top += 24
    return _picture(title, note, top - 6, parts)


def lines(
    title: str,
    note: str,
    series: Sequence[Line],
    x_unit: str,
    limit: tuple[float, str] | None = None,
) -> str:
    """Lines over a logarithmic axis of sizes, from zero up; `limit` is a value that was to be kept, and its words."""
    xs = sorted({x for line in series for x, _ in line.points})
    highest = max([y for line in series for _, y in line.points] + ([limit[0]] if limit else []))
    step = _step(highest)
    ceiling = math.ceil(highest * 1.02 / step) * step
    left, right = MARGIN + len(_figure(ceiling)) * LETTER + 10, WIDTH - MARGIN - 70.0
    top, bottom = 100.0, 340.0

    def at(x: float, y: float) -> tuple[float, float]:
        low, high = math.log(xs[0]), math.log(xs[-1])
        share = (math.log(x) - low) / (high - low) if high > low else 0.5
        return left + share * (right - left), bottom - (bottom - top) * y / ceiling

    parts = [*_heading(title, note), *_legend(series)]
    for mark in range(round(ceiling / step) + 1):
        y = at(xs[0], mark * step)[1]
        parts.append(f'<line class="grid" x1="{_n(left)}" y1="{_n(y)}" x2="{_n(right)}" y2="{_n(y)}"/>')
        parts.append(_text(left - 8, y + 4, _figure(round(mark * step, 6)), "quiet right"))
    parts += [_text(at(x, 0)[0], bottom + 20, _figure(x), "quiet middle") for x in xs]
    parts.append(_text((left + right) / 2, bottom + 40, x_unit, "quiet middle"))
    if limit:
        y = at(xs[0], limit[0])[1]
        parts.append(f'<line class="limit" x1="{_n(left)}" y1="{_n(y)}" x2="{_n(right)}" y2="{_n(y)}"/>')
        parts.append(_text(left + 6, y - 6, limit[1], "quiet"))
    for number, line in enumerate(series):
        parts += _line(number, [(*at(x, y), y) for x, y in line.points])
    return _picture(title, note, bottom + 58, parts)


def _line(number: int, points: Sequence[tuple[float, float, float]]) -> Iterator[str]:
    colour = number % _LINE_COLOURS
    way = " ".join(f"{_n(x)},{_n(y)}" for x, y, _ in points)
    yield f'<polyline class="line c{colour}" points="{way}"/>'
    for x, y, _ in points:
        yield f'<circle class="f{colour}" cx="{_n(x)}" cy="{_n(y)}" r="4"/>'
    x, y, value = points[-1]
    yield _text(x + 9, y + 4, _figure(value), f"f{colour} ours-text")


def _legend(series: Sequence[Line]) -> Iterator[str]:
    x = float(MARGIN)
    for number, line in enumerate(series):
        yield f'<circle class="f{number % _LINE_COLOURS}" cx="{_n(x + 5)}" cy="76" r="5"/>'
        yield _text(x + 16, 80, line.name, "")
        x += 16 + len(line.name) * LETTER + 22


def _heading(title: str, note: str) -> Iterator[str]:
    yield _text(MARGIN, 34, title, "title")
    yield _text(MARGIN, 54, note, "quiet")


def _picture(title: str, note: str, height: float, parts: Sequence[str]) -> str:
    size = f'width="{WIDTH}" height="{_n(height)}" viewBox="0 0 {WIDTH} {_n(height)}"'
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title note">\n'
        f'  <title id="title">{escape(title)}</title>\n  <desc id="note">{escape(note)}</desc>\n'
        f"  <style>{_STYLE}  </style>\n"
        f'  <rect class="panel" x="0.5" y="0.5" width="{WIDTH - 1}" height="{_n(height - 1)}" rx="8"/>\n'
        f"{body}\n</svg>\n"
    )


def _text(x: float, y: float, words: str, kind: str) -> str:
    kind = kind.strip()
    classed = f' class="{kind}"' if kind else ""
    return f'<text{classed} x="{_n(x)}" y="{_n(y)}">{escape(words)}</text>'


def _step(highest: float) -> float:
    """Between lines of the grid: one, two or five of the power of ten that gives three to seven of them."""
    power: float = 10 ** math.floor(math.log10(highest or 1))
    return next(power * part for part in (0.2, 0.5, 1, 2) if highest / (power * part) <= 7)


def _figure(value: float) -> str:
    """Three digits that count, thousands parted."""
    value = float(value)
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _n(place: float) -> str:
    """A coordinate, the same on every machine."""
    return f"{place:.1f}".removesuffix(".0")
