"""The time that usage is about: named ones and chosen days, in any zone, also where clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from embedmill.dashboard.usage import read_amount
from embedmill.dashboard.usage_span import Asked, read_span
from embedmill.errors import ConfigurationError

NOW = datetime(2026, 3, 31, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        (Asked(), date(2026, 3, 1), date(2026, 3, 31)),
        (Asked(zone="Europe/Berlin"), date(2026, 4, 1), date(2026, 4, 1)),
        (Asked("last-month"), date(2026, 2, 1), date(2026, 2, 28)),
        (Asked("7d"), date(2026, 3, 25), date(2026, 3, 31)),
        (Asked("days", "2026-03-29", "2026-03-29", "Europe/Berlin"), date(2026, 3, 29), date(2026, 3, 29)),
        (Asked("days", "2026-03-30"), date(2026, 3, 30), date(2026, 3, 31)),
        (Asked("days", "2026-03-30", "2030-01-01"), date(2026, 3, 30), date(2026, 3, 31)),
    ],
)
def test_a_time_is_whole_days_of_its_zone(asked: Asked, first: date, last: date) -> None:
    span, errors = read_span(asked, NOW)
    assert errors == {}
    assert (span.first, span.last) == (first, last)
    assert span.days[0] == first
    assert span.days[-1] == last
    assert (span.until is None) == (asked.period != "last-month" and asked.last != "2026-03-29")


def test_the_day_on_which_clocks_change_has_23_hours() -> None:
    span, _ = read_span(Asked("days", "2026-03-29", "2026-03-29", "Europe/Berlin"), NOW)
    assert span.until is not None
    assert span.until - span.since == timedelta(hours=23)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"),
        (" $ 12.50 ", "12.50"),
        ("1,000", "1000"),
        ("1,234,567.89", "1234567.89"),
        ("0", "0"),
        (".5", "0.5"),
    ],
)
def test_amounts_are_read_as_people_write_them(text: str, expected: str) -> None:
    assert read_amount(text) == Decimal(expected)


@pytest.mark.parametrize(
    "text",
    ["", "$", "-1", "nan", "inf", "1e99", "12,50", "1,00", ",100", "1.000,00", "1 0", "\x00", "1,0000"],
)
def test_amounts_that_are_not_clear_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_amount(text)
