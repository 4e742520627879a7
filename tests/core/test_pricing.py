"""What tokens cost, and how it is said."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.core.pricing import apportion, cost_usd, format_usd

AMOUNTS = st.decimals(min_value=0, max_value=10_000_000, allow_nan=False, allow_infinity=False, places=12)


@pytest.mark.parametrize(
    ("tokens", "price", "cost"),
    [
        (1_000_000, "0.02", "0.02"),
        (1, "0.02", "0.00000002"),
        (0, "0.13", "0"),
        (123_456_789, "0", "0"),
        (999_999_999_999, "0.13", "129999.99999987"),
    ],
)
def test_cost_is_exact(tokens: int, price: str, cost: str) -> None:
    assert cost_usd(tokens, Decimal(price)) == Decimal(cost)


def test_an_unknown_price_stays_unknown_and_is_not_nothing() -> None:
    assert cost_usd(1000, None) is None
    assert cost_usd(0, None) is None
    assert format_usd(None) == "unknown"


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_costs_add_up(some: int, more: int) -> None:
    price = Decimal("0.13")
    assert (cost_usd(some, price) or 0) + (cost_usd(more, price) or 0) == cost_usd(some + more, price)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        ("0", "$0"),
        ("0.00", "$0"),
        ("1", "$1.00"),
        ("1234567.891", "$1,234,567.89"),
        ("0.1", "$0.10"),
        ("0.5", "$0.50"),
        ("0.25", "$0.25"),
        ("0.0123", "$0.0123"),
        ("0.000042", "$0.000042"),
        ("0.00000002", "$0.00000002"),
        ("0.999999999", "$1.00"),
    ],
)
def test_money_is_said_as_people_say_it(amount: str, said: str) -> None:
    assert format_usd(Decimal(amount)) == said


@given(AMOUNTS)
def test_what_is_said_is_a_sum_and_what_costs_something_never_looks_free(amount: Decimal) -> None:
    said = format_usd(amount)
    assert said[0] == "$"
    assert said[-1].isdigit()
    value = Decimal(said[1:].replace(",", ""))
    assert (value == 0) == (amount == 0)
    assert abs(value - amount) <= max(Decimal("0.005"), amount / 1000)


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10_000), min_size=1, max_size=300))
def test_shares_sum_to_the_whole_and_are_in_proportion(total: int, weights: list[int]) -> None:
    shares = apportion(total, weights)
    assert sum(shares) == total
    whole = sum(weights)
    if whole:
        assert all(
            abs(share - total * weight / whole) <= 1 for share, weight in zip(shares, weights, strict=True)
        )


def test_nothing_is_apportioned_among_nobody() -> None:
    assert apportion(5, []) == []
