"""How long a server wants us to wait. Owns the reading of Retry-After and its many relatives; decides
nothing about retries. Pure: the time is an argument."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_SECONDS = 24 * 3600.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds from 0 to LONGEST_SECONDS that the headers (names in lower case) ask for; None where they
    ask for nothing that can be read.

    In this order: retry-after-ms, Retry-After (seconds, or a date, counted from the server's own Date
    header so that a wrong clock here does no harm), then the x-ratelimit-reset-* of a limit that is used
    up, else the soonest of them.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    asked = headers.get("retry-after")
    seconds = _number(asked)
    if seconds is not None:
        return _bounded(seconds)
    until = _date(asked)
    if until is not None:
        return _bounded((until - (_date(headers.get("date")) or now)).total_seconds())
    return _from_resets(headers)


def _from_resets(headers: Mapping[str, str]) -> float | None:
    used_up: list[float] = []
    others: list[float] = []
    for kind in ("requests", "tokens"):
        wait = _duration(headers.get(f"x-ratelimit-reset-{kind}"))
        if wait is None:
            continue
        remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        (used_up if remaining is not None and remaining <= 0 else others).append(wait)
    if used_up:
        return _bounded(max(used_up))
    return _bounded(min(others)) if others else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _duration(text: str | None) -> float | None:
    """Seconds of "6m0s", "20ms" or a bare number."""
    if not text:
        return None
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text.strip():
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    return _number(text)


def _date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        value = parsedate_to_datetime(text)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_SECONDS)
