"""What a call has been through, and what the ledger will say of it. Owns these values; must not ask anybody."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID, uuid4

from embedmill.core.batching import Unit
from embedmill.embed.results import Call, Reservation
from embedmill.errors import ProviderError
from embedmill.ports import EmbeddingResponse

# What a provider is asked, to see whether it takes anything at all.
HARMLESS = "embedmill"
HARMLESS_TOKENS = 8


class Story:
    """What a call has been through."""

    def __init__(self) -> None:
        self.first_sent_at = float("inf")
        self.failures = 0
        self.limits = 0
        self.last_error: str | None = None


class Grant(NamedTuple):
    """What of the quota was spent on a call, and when."""

    tokens: int
    at: float


class Begun:
    """A call that is out: what the ledger will say of it."""

    def __init__(
        self,
        worker_id: UUID,
        units: Sequence[Unit],
        sent_at: float,
        granted: Grant,
        reservation: Reservation | None,
    ) -> None:
        self.sent_at = sent_at
        self.granted = granted
        self.reservation = reservation
        self.tokens = sum(unit.tokens for unit in units)
        self._id = uuid4() if reservation is None else reservation.call_id
        self._worker_id = worker_id
        self._usage_type = units[0].group.partition(" ")[0]
        self._inputs = len(units)
        self._started = time.monotonic()

    def answered(self, response: EmbeddingResponse) -> Call:
        return self._entry(self.tokens if response.tokens is None else response.tokens, None)

    def failed(self, error: ProviderError) -> Call:
        return self._entry(self.tokens if error.charged else 0, str(error))

    def _entry(self, tokens: int, error: str | None) -> Call:
        return Call(
            id=self._id,
            worker_id=self._worker_id,
            usage_type=self._usage_type,
            inputs=self._inputs,
            tokens=tokens,
            latency_ms=int((time.monotonic() - self._started) * 1000),
            error=error,
            reservation=self.reservation,
        )


def harmless_unit(group: str) -> Unit:
    return Unit(b"", HARMLESS, HARMLESS_TOKENS, group, [])
