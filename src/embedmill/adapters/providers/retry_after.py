"""How long a server wants us to wait, after a refusal or a good answer. Owns the reading of Retry-After and its many
relatives; decides nothing about retries. Pure: the time is an argument."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_SECONDS = 24 * 3600.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_UNIT_SECONDS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
# A bare number from here on is no wait but a moment: seconds, or milliseconds, since 1970.
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e12


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
    used_up, others = _resets(headers, now)
    if used_up:
        return _bounded(max(used_up))
    return _bounded(min(others)) if others else None


def exhausted_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Of a good answer: seconds until a limit that is used up with it is reset, by the x-ratelimit-* headers
    (names in lower case); None where nothing is used up, or it does not say until when."""
    used_up, _ = _resets(headers, now)
    return _bounded(max(used_up)) or None if used_up else None


def _resets(headers: Mapping[str, str], now: datetime) -> tuple[list[float], list[float]]:
    """The waits for the limits that are used up, and for the others."""
    used_up: list[float] = []
    others: list[float] = []
    for kind in ("requests", "tokens"):
        wait = _duration(headers.get(f"x-ratelimit-reset-{kind}"), _date(headers.get("date")) or now)
        if wait is None:
            continue
        remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        (used_up if remaining == 0 else others).append(wait)
    return used_up, others


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _duration(text: str | None, now: datetime) -> float | None:
    """Seconds of "6m0s", "20ms" or a bare number; until a moment that is given as a number since 1970."""
    if not text:
        return None
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text.strip():
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    number = _number(text)
    if number is None or number < _EPOCH_SECONDS:
        return number
    return number / (1000 if number >= _EPOCH_MILLISECONDS else 1) - now.timestamp()


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
