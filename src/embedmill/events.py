"""Typed events: what happened, for whoever shows or counts it. Owns the values only."""

from __future__ import annotations

import msgspec


class CallSucceeded(msgspec.Struct, frozen=True):
    """A response was committed: `vectors` written for `inputs` texts, `tokens` paid."""

    generation_id: int
    inputs: int
    vectors: int
    tokens: int
    latency_seconds: float


class VectorsReused(msgspec.Struct, frozen=True):
    """Vectors of equal texts were copied: nothing paid."""

    generation_id: int
    vectors: int


class CallFailed(msgspec.Struct, frozen=True):
    """A provider call brought nothing. `fatal`: no call can succeed until a person acts."""

    generation_id: int
    message: str
    rate_limited: bool = False
    fatal: bool = False


class ChunkRefused(msgspec.Struct, frozen=True):
    """A chunk was dead-lettered: the provider refuses its text."""

    generation_id: int
    message: str


class ItemsEnded(msgspec.Struct, frozen=True):
    """Queue items that ended."""

    generation_id: int
    completed: int = 0
    failed: int = 0


Event = CallSucceeded | VectorsReused | CallFailed | ChunkRefused | ItemsEnded
