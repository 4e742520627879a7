"""How long a server wants us to wait, in all the ways servers say it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.adapters.providers.retry_after import (
    LONGEST_SECONDS,
    exhausted_seconds,
    retry_after_seconds,
)

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0),
        # The server's clock is an hour behind: only the difference counts.
        ({"retry-after": "Sun, 22 Nov 2026 11:00:30 GMT", "date": "Sun, 22 Nov 2026 11:00:00 GMT"}, 30),
        ({"retry-after": "99999999"}, LONGEST_SECONDS),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Sun, 99 Nov 2026 12:00:30 GMT"}, None),
        ({"retry-after": ""}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "20ms", "x-ratelimit-reset-tokens": "1m2.5s"}, 0.02),
        (
            {
                "x-ratelimit-reset-requests": "20ms",
                "x-ratelimit-remaining-requests": "99",
                "x-ratelimit-reset-tokens": "1m2.5s",
                "x-ratelimit-remaining-tokens": "0",
            },
            62.5,
        ),
        ({"x-ratelimit-reset-tokens": "12"}, 12),
        ({"x-ratelimit-reset-tokens": "1s and more"}, None),
        ({"x-ratelimit-reset-tokens": "-1s"}, None),
        ({"x-ratelimit-reset-tokens": "1.5µs"}, 1.5e-6),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-requests": "9999999d"}, LONGEST_SECONDS),
        # Not a wait of half a century but a moment: in seconds, and in milliseconds.
        ({"x-ratelimit-reset-requests": str(int(NOW.timestamp()) + 90)}, 90),
        ({"x-ratelimit-reset-requests": str(1000 * int(NOW.timestamp()) + 500)}, 0.5),
        ({"x-ratelimit-reset-requests": str(int(NOW.timestamp()) - 90)}, 0),
        # What is said outright goes before what is implied, and a hint that cannot be read hides no other.
        ({"retry-after": "7", "x-ratelimit-reset-requests": "6m0s"}, 7),
        ({"retry-after": "soon", "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"retry-after-ms": "-5", "retry-after": "3"}, 3),
        ({"retry-after-ms": "1e99"}, LONGEST_SECONDS),
    ],
)
def test_the_wait_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


def limits(requests: str, requests_reset: str, tokens: str, tokens_reset: str) -> dict[str, str]:
    return {
        "x-ratelimit-remaining-requests": requests,
        "x-ratelimit-reset-requests": requests_reset,
        "x-ratelimit-remaining-tokens": tokens,
        "x-ratelimit-reset-tokens": tokens_reset,
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        (limits("59", "1s", "149984", "6m0s"), None),
        (limits("0", "1s", "149984", "6m0s"), 1),
        (limits("59", "1s", "0", "6m0s"), 360),
        (limits("0", "20ms", "0", "2s"), 2),
        (limits("0", "0s", "9", "2s"), None),
        # Some servers say -1 for a limit that they do not have.
        (limits("-1", "60s", "-1", "60s"), None),
        (limits("0", "soon", "9", "2s"), None),
        (limits("0", "-3s", "9", "2s"), None),
        (limits("0", "400d", "9", "2s"), LONGEST_SECONDS),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        # A good answer is not held against anybody by a Retry-After.
        ({"retry-after": "30"}, None),
    ],
)
def test_a_limit_that_is_used_up_is_read_off_a_good_answer(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert exhausted_seconds(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@given(st.dictionaries(st.sampled_from(list(limits("", "", "", ""))), st.text() | st.floats().map(str)))
def test_no_header_breaks_the_reading(headers: dict[str, str]) -> None:
    for read in (retry_after_seconds, exhausted_seconds):
        seconds = read(headers, NOW)
        assert seconds is None or 0 <= seconds <= LONGEST_SECONDS
