"""Cron expressions of five fields: when is the next time. Pure; owns the reading of an expression and the reckoning in
UTC, where no hour is missing or comes twice. Must not know what happens then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# Between two 29ths of February there may be eight years.
_FURTHEST_DAYS = 366 * 9
_FIELDS = 5


class InvalidCronError(ValueError):
    """No cron expression; the message says what is wrong with it."""


class Cron(msgspec.Struct, frozen=True):
    """The minutes, hours, days, months and days of the week (0: Sunday) at which it is time. Where both kinds of days
    are restricted, either will do, as cron has always had it."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    def is_on(self, day: datetime) -> bool:
        """Whether it is time at any minute of this day."""
        if day.month not in self.months:
            return False
        by_date = day.day in self.days
        by_weekday = day.isoweekday() % 7 in self.weekdays
        return by_date and by_weekday if self.any_day or self.any_weekday else by_date or by_weekday


def parse_cron(expression: str) -> Cron:
    """Minute, hour, day, month, day of the week: each `*`, numbers, `a-b`, `/step`, lists; names of months and days;
    `@daily` and its like. Raises InvalidCronError."""
    text = expression.strip().lower()
    fields = _SHORTHANDS.get(text, text).split()
    if len(fields) != _FIELDS:
        raise InvalidCronError(
            f"{expression!r} has {len(fields)} fields; five are wanted: minute, hour, day, month, day of the week, "
            "such as '0 3 * * *' for three o'clock (UTC) each night"
        )
    weekdays = _field("day of the week", fields[4], 0, 7, _DAYS, 0)
    cron = Cron(
        minutes=_field("minute", fields[0], 0, 59),
        hours=_field("hour", fields[1], 0, 23),
        days=_field("day", fields[2], 1, 31),
        months=_field("month", fields[3], 1, 12, _MONTHS, 1),
        weekdays=frozenset(day % 7 for day in weekdays),
        any_day=fields[2].startswith("*"),
        any_weekday=fields[4].startswith("*"),
    )
    if next_of(cron, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise InvalidCronError(f"{expression!r} names a day that never comes")
    return cron


def next_after(expression: str, time: datetime) -> datetime:
    """The first minute after this time, in UTC. Raises InvalidCronError."""
    found = next_of(parse_cron(expression), time)
    if found is None:
        raise InvalidCronError(f"{expression!r} names a day that does not come any more")
    return found


def next_of(cron: Cron, time: datetime) -> datetime | None:
    """The first minute after a time that has a zone; None where none comes within nine years."""
    start = time.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    day = start.replace(hour=0, minute=0)
    for _ in range(_FURTHEST_DAYS):
        if cron.is_on(day):
            for hour in sorted(cron.hours):
                for minute in sorted(cron.minutes):
                    candidate = day.replace(hour=hour, minute=minute)
                    if candidate >= start:
                        return candidate
        try:
            day += timedelta(days=1)
        except OverflowError:
            return None
    return None


def _field(
    what: str, text: str, first: int, last: int, names: tuple[str, ...] = (), names_from: int = 0
) -> frozenset[int]:
    """The values that a field allows."""
    known = {name: number for number, name in enumerate(names, names_from)}

    def number(word: str) -> int:
        if word in known:
            return known[word]
        if not (word.isascii() and word.isdecimal()) or not first <= int(word[:9]) <= last:
            raise InvalidCronError(f"{word!r} is no {what}: {first} to {last}")
        return int(word)

    allowed: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isascii() and step.isdecimal() and int(step[:9]) > 0):
            raise InvalidCronError(f"{part!r}: a step is a number above 0")
        if span == "*":
            low, high = first, last
        elif "-" in span:
            begin, _, end = span.partition("-")
            low, high = number(begin), number(end)
            if low > high:
                raise InvalidCronError(f"{part!r} ends before it begins")
        else:
            low = number(span)
            high = last if slash else low
        allowed.update(range(low, high + 1, int(step) if slash else 1))
    return frozenset(allowed)
