"""How often what was seen, as rows: the most frequent, each with what it was seen beside most often. Owns the
arithmetic that samples of Python and samples of the server share."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

TOP = 8
# How often this was seen beside that.
Seen = Counter[tuple[str, str]]


def shares(part: str, seen: Seen, looks: float) -> list[dict[str, Any]]:
    """`share_percent` is of all that was seen, `at_once` how much of it a look saw on average."""
    beside: dict[str, Counter[str]] = defaultdict(Counter)
    for (what, other), times in seen.items():
        beside[what][other] += times
    ranked = sorted(beside.items(), key=lambda each: (-each[1].total(), each[0]))
    return [
        {
            "part": part,
            "what": what,
            "share_percent": percent(others.total(), seen.total()),
            "at_once": round(others.total() / looks, 2),
            "mostly": _mostly(others),
        }
        for what, others in ranked[:TOP]
    ]


def turned(seen: Seen) -> Seen:
    """The same, from the other side."""
    return Counter({(other, what): times for (what, other), times in seen.items()})


def percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1)


def _mostly(others: Counter[str]) -> str:
    ((other, times),) = others.most_common(1)
    return f"{other} {times / others.total():.0%}"
