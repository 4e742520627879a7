"""Prose out of nothing: paragraphs of made-up sentences, the same for the same seed."""

from __future__ import annotations

import random

# fmt: off
_WORDS = (
    "mill", "river", "wheel", "stone", "flour", "grain", "morning", "market", "bread", "oven",
    "baker", "sack", "cart", "horse", "road", "bridge", "village", "winter", "harvest", "field",
    "water", "stream", "gate", "keeper", "ledger", "price", "ounce", "pound", "silver", "letter",
    "window", "candle", "chair",
)
# fmt: on


def paragraphs(count: int, *, seed: int = 0) -> str:
    """So many paragraphs of five sentences, about 60 words each; no two are alike."""
    chance = random.Random(seed)
    return "\n\n".join(" ".join(_sentence(chance) for _ in range(5)) for _ in range(count))


def _sentence(chance: random.Random) -> str:
    words = [chance.choice(_WORDS) for _ in range(12)]
    return " ".join(words).capitalize() + f" {chance.randint(0, 10**9)}."
