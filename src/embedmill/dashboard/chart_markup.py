"""The many small parts of a chart as HTML: its bars, what the pointer tells of each moment, the rows of its table. Owns
their words. Put together here and not in a template, where each of a thousand figures would be escaped by itself, which
took longer than all else of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

from embedmill.dashboard.charts import Bar, Chart


def rectangles(chart: Chart) -> Markup:
    """The pieces of all bars."""
    return _trusted(
        f'<rect class="series-{piece.series}" x="{piece.x}" y="{piece.y}" '
        f'width="{piece.width}" height="{piece.height}"></rect>'
        for piece in chart.pieces
    )


def hovers(chart: Chart, shown: Callable[[float], str], unit: str) -> Markup:
    """Over each moment a rectangle that tells its values."""
    names = [escape(name) for name in chart.names] if len(chart.names) > 1 else [escape(unit)]
    return _trusted(
        f'<rect class="hover" x="{x}" y="0" width="{width}" height="{chart.height}">'
        f"<title{_at(bar)}>{escape(bar.label)}: "
        + ", ".join(f"{shown(value)} {name}" for value, name in zip(bar.values, names, strict=True))
        + "</title></rect>"
        for x, width, bar in chart.hovers
    )


def rows(chart: Chart, shown: Callable[[float], str]) -> Markup:
    """The moments at which there was anything, the last one first."""
    return _trusted(
        f"<tr><td>{moment(bar)}</td>"
        + "".join(f'<td class="number">{shown(value)}</td>' for value in bar.values)
        + "</tr>"
        for bar in reversed(chart.bars)
        if sum(bar.values)
    )


def moment(bar: Bar) -> Markup:
    """The moment of a bar, which the browser puts into the reader's zone."""
    label = escape(bar.label)
    if not bar.at_utc:
        return label
    return _trusted([f'<time datetime="{bar.at_utc}" data-show="clock">{label}</time>'])


def _at(bar: Bar) -> str:
    return f' data-at="{bar.at_utc}"' if bar.at_utc else ""


def _trusted(parts: Iterable[str]) -> Markup:
    """Numbers, and texts that are escaped already."""
    return Markup("".join(parts))  # noqa: S704
