"""The time that a page of usage is about, as a reader chooses it: a named one, or two days, in a time zone. Owns
reading it from the address and saying what is wrong with it; pure but for the calendar of zones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

PERIODS: Mapping[str, str] = {
    "month": "This month",
    "last-month": "Last month",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
    "days": "From … to …",
}
DEFAULT_PERIOD = "month"
MOST_DAYS = 400
_DAYS = {"7d": 7, "30d": 30, "90d": 90}


class Asked(msgspec.Struct, frozen=True):
    """A choice as it was typed."""

    period: str = DEFAULT_PERIOD
    first: str = ""
    last: str = ""
    zone: str = "UTC"

    @property
    def query(self) -> dict[str, str]:
        """What of it an address must say: nothing of what is so anyway."""
        days = {"from": self.first, "to": self.last} if self.period == "days" else {}
        chosen = {"period": self.period if self.period != DEFAULT_PERIOD else "", "zone": self.zone, **days}
        return {name: value for name, value in chosen.items() if value and (name, value) != ("zone", "UTC")}


def day_or_nothing(text: str) -> str:
    """What a field for a day can hold of what was typed."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return ""


class Span(msgspec.Struct, frozen=True):
    """Whole days of a zone, both among them. `until` of None: to this moment."""

    first: date
    last: date
    zone: str
    since: datetime
    until: datetime | None

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


def read_span(asked: Asked, now: datetime) -> tuple[Span, dict[str, str]]:
    """The span, and what is wrong with the choice by the name of its field: the span is the default one then."""
    errors: dict[str, str] = {}
    zone = _zone(asked.zone)
    if zone is None:
        errors["zone"] = "There is no such time zone: a name such as UTC or Europe/Berlin is wanted."
        return _span(*_named(DEFAULT_PERIOD, now.astimezone(UTC).date()), UTC, "UTC", now), errors
    today = now.astimezone(zone).date()
    if asked.period == "days":
        chosen = _chosen(asked, today, errors)
    elif asked.period in PERIODS:
        chosen = _named(asked.period, today)
    else:
        errors["period"] = "There is no such period."
        chosen = None
    return _span(*(chosen or _named(DEFAULT_PERIOD, today)), zone, asked.zone, now), errors


def _named(period: str, today: date) -> tuple[date, date]:
    if period == "last-month":
        last = today.replace(day=1) - timedelta(days=1)
        return last.replace(day=1), last
    if period in _DAYS:
        return today - timedelta(days=_DAYS[period] - 1), today
    return today.replace(day=1), today


def _chosen(asked: Asked, today: date, errors: dict[str, str]) -> tuple[date, date] | None:
    first = _day(asked.first, "from", errors)
    last = _day(asked.last, "to", errors) if asked.last else today
    if first is None or last is None:
        return None
    last = min(last, max(today, first))
    if last < first:
        errors["to"] = "The last day lies before the first one."
    elif (last - first).days >= MOST_DAYS:
        errors["from"] = f"At most {MOST_DAYS} days at once: choose a later first day, or export in parts."
    elif first > today:
        errors["from"] = "This day has not come yet."
    else:
        return first, last
    return None


def _day(text: str, field: str, errors: dict[str, str]) -> date | None:
    try:
        day = date.fromisoformat(text.strip())
        if 2000 <= day.year <= 9000:
            return day
    except ValueError:
        pass
    said = f", not {text[:20]}" if text else ""
    errors[field] = f"A day such as 2026-05-31 is wanted{said}."
    return None


def _zone(name: str) -> tzinfo | None:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _span(first: date, last: date, zone: tzinfo, name: str, now: datetime) -> Span:
    since = datetime.combine(first, time(), zone).astimezone(UTC)
    until = datetime.combine(last + timedelta(days=1), time(), zone).astimezone(UTC)
    return Span(first, last, name, since, None if until > now else until)
