"""How values look on a page: numbers, money, spans of time, moments. Owns the Jinja environment and its filters; must
not ask a database.

Everything is escaped unless a filter here returns Markup. A moment is written in UTC, and put into the reader's zone by
app.js; nothing here depends on the time of rendering, so that a page which has not changed renders to the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from embedmill.dashboard import chart_markup

_STATIC = files("embedmill.dashboard") / "static"
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def count(number: int | None) -> str:
    """1,234,567; a dash where it is not known."""
    return "–" if number is None else f"{number:,}"


def short_count(number: float | None) -> str:
    """Three digits or so: 950, 12.4k, 3.1M."""
    if number is None:
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def money(usd: Decimal | float | None) -> str:
    """US dollars, with as many digits as small prices need; `unknown` is not nothing."""
    if usd is None:
        return "unknown"
    amount = Decimal(usd)
    if amount == 0 or abs(amount) >= 1:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if abs(amount) >= Decimal("0.0001") else f"${amount:.7f}".rstrip("0").rstrip(".")


def percent(number: float | None) -> str:
    """Never rounded up to 100: what is complete says so itself."""
    if number is None:
        return "–"
    if number >= 100:
        return "100%"
    return f"{int(number * 10) / 10:g}%"


def duration(seconds: float | None) -> str:
    """4 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return "–"
    whole = max(round(seconds), 0)
    if whole < _MINUTE:
        return f"{whole} s"
    for size, unit, smaller, small_unit in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole // _MINUTE} min" + (f" {whole % _MINUTE} s" if whole % _MINUTE else "")


def size(number: float | None) -> str:
    """Bytes: 812 B, 1.4 MB."""
    if number is None:
        return "–"
    for power, unit in ((3, "GB"), (2, "MB"), (1, "KB")):
        if number >= 1000**power:
            return f"{number / 1000**power:.3g} {unit}"
    return f"{number:.0f} B"


def moment(at: datetime | None) -> Markup:
    """A moment in the reader's zone."""
    return _time(at, "moment")


def ago(at: datetime | None) -> Markup:
    """How long ago, kept current by the browser; the moment itself is its title."""
    return _time(at, "ago")


def _time(at: datetime | None, kind: str) -> Markup:
    if at is None:
        return Markup("–")
    day, _, rest = at.astimezone(UTC).isoformat(timespec="milliseconds").partition("T")
    clock = rest[:12]
    # Digits alone, which need no escaping: a page has hundreds of them.
    return Markup(f'<time datetime="{day}T{clock}Z" data-show="{kind}">{day} {clock[:8]} UTC</time>')  # noqa: S704


def words(name: str) -> str:
    """A status or a reason as people read it: chunk_preview_ready is `chunk preview ready`."""
    return name.replace("_", " ")


def prose(text: str) -> Markup:
    """A sentence of ours, in which `commands` stand between backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if index % 2 else escape(piece)
        for index, piece in enumerate(pieces)
    )


def pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str, sort_keys=True)


def compact_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, sort_keys=True)


def link(path: str, parameters: Mapping[str, Any] | None = None, /, **changes: Any) -> str:
    """A path with a query: `parameters`, changed; what is None or empty is left out."""
    wanted = {**(parameters or {}), **changes}
    query = urlencode({name: value for name, value in wanted.items() if value not in (None, "")}, doseq=True)
    return f"{path}?{query}" if query else path


@cache
def static_url(name: str) -> str:
    """The address of a file under static/, with the hash of its content: browsers may keep it for ever."""
    digest = hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


def build_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("embedmill.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        count=count,
        short_count=short_count,
        money=money,
        percent=percent,
        duration=duration,
        size=size,
        moment=moment,
        ago=ago,
        words=words,
        prose=prose,
        pretty_json=pretty_json,
        compact_json=compact_json,
        rectangles=chart_markup.rectangles,
        hovers=chart_markup.hovers,
        rows=chart_markup.rows,
        bar_moment=chart_markup.moment,
    )
    environment.globals.update(static=static_url, link=link, short_count=short_count, money=money)
    return environment
