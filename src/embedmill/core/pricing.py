"""What tokens cost. Pure; owns the arithmetic. None is an unknown price and stays unknown, never 0."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal


def cost_usd(tokens: int, price_per_million_tokens: Decimal | None) -> Decimal | None:
    """US dollars for `tokens`, or None where the price is not known."""
    if price_per_million_tokens is None:
        return None
    return Decimal(tokens) * price_per_million_tokens / 1_000_000


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to the weights (at least 0 each); they sum to it exactly. Where all
    weights are 0 the first has all."""
    whole = sum(weights)
    if whole == 0:
        return [total, *([0] * (len(weights) - 1))] if weights else []
    shares, passed, given = [], 0, 0
    for weight in weights:
        passed += weight
        share = passed * total // whole - given
        given += share
        shares.append(share)
    return shares


def format_usd(amount: Decimal | None) -> str:
    """For people: cents from a dollar on, three digits that count below; what costs something is never $0."""
    if amount is None:
        return "unknown"
    if amount == 0:
        return "$0"
    if amount >= Decimal("0.995"):
        return f"${amount:,.2f}"
    whole, _, cents = f"{amount:.{2 - amount.adjusted()}f}".partition(".")
    return f"${whole}.{cents.rstrip('0'):0<2}"
