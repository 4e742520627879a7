"""Cron expressions: the next minute, against a clock that is turned minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.core.cron import InvalidCronError, next_after, parse_cron


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "time", "expected"),
    [
        ("0 3 * * *", "2026-11-22T02:59:59", "2026-11-22T03:00"),
        ("0 3 * * *", "2026-11-22T03:00:00", "2026-11-23T03:00"),
        ("*/15 * * * *", "2026-11-22T23:46", "2026-11-23T00:00"),
        ("5/20 * * * *", "2026-11-22T10:00", "2026-11-22T10:05"),
        ("5/20 * * * *", "2026-11-22T10:05", "2026-11-22T10:25"),
        ("0 9-17/4 * * mon-fri", "2026-11-20T17:30", "2026-11-23T09:00"),
        ("0 0 29 feb *", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "2096-03-01T00:00", "2104-02-29T00:00"),
        # Both kinds of days restricted: the 13th, and every Friday.
        ("0 0 13 * 5", "2026-11-01T00:00", "2026-11-06T00:00"),
        ("0 0 13 * fri", "2026-12-11T00:00", "2026-12-13T00:00"),
        # A day that begins with * restricts together with the other, as in Vixie cron.
        ("0 0 */2 * 1", "2026-11-22T00:00", "2026-11-23T00:00"),
        ("0 0 * * 7", "2026-11-22T00:00", "2026-11-29T00:00"),
        ("0 0 31 * *", "2026-11-01T00:00", "2026-12-31T00:00"),
        ("@hourly", "2026-12-31T23:30", "2027-01-01T00:00"),
        ("1,3,2 1 1 1 *", "2026-01-01T01:01", "2026-01-01T01:02"),
    ],
)
def test_the_next_time(expression: str, time: str, expected: str) -> None:
    assert next_after(expression, at(time)) == at(expected)


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    tokyo = datetime(2026, 11, 22, 11, 59, tzinfo=timezone(timedelta(hours=9)))
    assert next_after("0 3 * * *", tokyo) == at("2026-11-22T03:00")


@pytest.mark.parametrize(
    "expression",
    [
        "", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *",
        "* * * * 8", "*/0 * * * *", "5-1 * * * *", "a * * * *", "1, * * * *", "-1 * * * *", "1-2-3 * * * *",
        "0 0 30 2 *", "0 0 31 4,6,9,11 *", "@reboot", "٣ * * * *", "1/ * * * *", "* * * * mon-",
    ],
)  # fmt: skip
def test_what_is_none_is_refused_with_a_reason(expression: str) -> None:
    with pytest.raises(InvalidCronError, match=r".{10}"):
        parse_cron(expression)


def a_field(first: int, last: int) -> st.SearchStrategy[str]:
    number = st.integers(first, last)
    span = st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}")
    base = st.one_of(st.just("*"), number.map(str), span)
    stepped = st.tuples(base, st.integers(1, 20)).map(lambda both: f"{both[0]}/{both[1]}")
    return st.lists(st.one_of(base, stepped), min_size=1, max_size=3).map(",".join)


EXPRESSIONS = st.tuples(a_field(0, 59), a_field(0, 23), a_field(1, 28), a_field(1, 12), a_field(0, 7)).map(
    " ".join
)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(EXPRESSIONS, TIMES)
@settings(max_examples=150, deadline=None)
def test_the_next_time_is_later_whole_and_asked_from_there_goes_on(expression: str, time: datetime) -> None:
    found = next_after(expression, time)
    assert found > time
    assert (found.second, found.microsecond) == (0, 0)
    assert next_after(expression, found - timedelta(minutes=1)) == found
    cron = parse_cron(expression)
    assert found.minute in cron.minutes
    assert found.hour in cron.hours
    assert found.month in cron.months


@given(a_field(0, 59), a_field(0, 23), st.sampled_from(["*", "1", "2,3", "fri-sat"]), TIMES)
@settings(max_examples=25, deadline=None)
def test_no_time_before_the_next_is_left_out(minute: str, hour: str, weekday: str, time: datetime) -> None:
    """Against a clock that is turned minute by minute, for a week at most."""
    cron = parse_cron(f"{minute} {hour} * * {weekday}")
    found = next_after(f"{minute} {hour} * * {weekday}", time)
    assert found - time <= timedelta(days=8)
    clock = time.replace(second=0, microsecond=0) + timedelta(minutes=1)
    while clock < found:
        is_time = clock.minute in cron.minutes and clock.hour in cron.hours
        assert not (is_time and clock.isoweekday() % 7 in cron.weekdays)
        clock += timedelta(minutes=1)
