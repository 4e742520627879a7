"""Sends what stands in the outbox. Owns which deliveries are under way: leased row by row, few at a time for each
webhook, so that one that hangs takes nobody's place. Any number of senders may run side by side.

Each message is sent at least once: after a crash, or when an answer is lost, again under the same webhook-id, by which
receivers know it. Their order is not promised; receivers go by the timestamp in the payload.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import structlog

from embedmill.database.patience import AWAY, patiently
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.logs import about
from embedmill.ports import SILENT, Telemetry, WebhookPoster
from embedmill.webhooks.attempts import LEASE_SECONDS, ClaimedDelivery, Verdict, call, verdict, write
from embedmill.webhooks.registry import SWITCHED_OFF
from embedmill.webhooks.signing import WebhookSecrets

_SQL = load_queries("embedmill.webhooks", "webhooks.sql")
_log = structlog.get_logger(__name__)

# An endpoint that takes longer than this, or fails, gets one call at a time until it is well again.
_SLOW_SECONDS = 2.0
_STRANDED_LOOK_SECONDS = 60.0


def _now() -> datetime:
    return datetime.now(UTC)


class WebhookSender:
    """Runs until `stop()`. Serves all tenants: `database` connects as the owner of the schema."""

    def __init__(
        self,
        database: Database,
        poster: WebhookPoster,
        secrets: WebhookSecrets,
        *,
        calls_at_once: int = 100,
        calls_per_webhook: int = 4,
        idle_seconds: float = 1.0,
        lease_seconds: float = LEASE_SECONDS,
        chance: random.Random | None = None,
        now: Callable[[], datetime] = _now,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`lease_seconds` must be longer than the poster's own limit for a call."""
        self._database = database
        self._poster = poster
        self._secrets = secrets
        self._calls_at_once = calls_at_once
        self._calls_per_webhook = calls_per_webhook
        self._idle_seconds = idle_seconds
        self._lease_seconds = lease_seconds
        self._chance = chance or random.Random()  # noqa: S311 - it spreads retries
        self._now = now
        self._telemetry = telemetry
        self._under_way: Counter[UUID] = Counter()
        self._troubled: set[UUID] = set()
        self._next_look = 0.0
        self._stopping = False
        self._wake = asyncio.Event()

    def stop(self) -> None:
        """Claim nothing more; `run` returns when the calls under way have ended."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as calls:
            while not self._stopping:
                self._wake.clear()
                claimed = await self._claimed()
                for delivery in claimed:
                    self._under_way[delivery.webhook_id] += 1
                    calls.create_task(self._deliver_one(delivery))
                if not claimed or self._is_full():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), self._idle_seconds)

    async def _claimed(self) -> list[ClaimedDelivery]:
        """Deliveries to begin with now: those of healthy webhooks, then as far as there is room for them the others."""
        try:
            await self._end_stranded()
            healthy = await self._claim(
                self._calls_at_once, self._slots_of_healthy(), self._calls_per_webhook
            )
            troubled = []
            if self._troubled:
                room = self._calls_at_once // 2 - sum(self._under_way[which] for which in self._troubled)
                room = min(room, self._calls_at_once - len(healthy))
                troubled = await self._claim(room, self._slots_of_troubled(), 0)
        except AWAY as error:
            _log.warning("webhooks wait for the database", error=str(error).strip())
            return []
        return healthy + troubled

    async def _claim(self, limit: int, slots: dict[UUID, int], slots_each: int) -> list[ClaimedDelivery]:
        limit = min(limit, self._calls_at_once - self._under_way.total())
        if limit <= 0:
            return []
        rows = await self._database.fetch(
            _SQL["claim"],
            {
                "limit": limit,
                "webhook_ids": list(slots),
                "slots": list(slots.values()),
                "slots_each": slots_each,
                "lease_seconds": self._lease_seconds,
            },
        )
        return [ClaimedDelivery(*row) for row in rows]

    def _slots_of_healthy(self) -> dict[UUID, int]:
        free = {which: max(0, self._calls_per_webhook - count) for which, count in self._under_way.items()}
        return {**free, **dict.fromkeys(self._troubled, 0)}

    def _slots_of_troubled(self) -> dict[UUID, int]:
        return {which: 0 if self._under_way[which] else 1 for which in self._troubled}

    def _is_full(self) -> bool:
        return self._under_way.total() >= self._calls_at_once

    async def _deliver_one(self, claimed: ClaimedDelivery) -> None:
        with about(tenant_id=claimed.tenant_id, webhook_id=claimed.webhook_id):
            await self._deliver(claimed)

    async def _deliver(self, claimed: ClaimedDelivery) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await call(self._poster, self._secrets, claimed, at=self._now())
            means = verdict(answer, claimed, self._chance)
            self._judge(claimed.webhook_id, means, clock() - began)
            self._telemetry.delivered(outcome=means.status, seconds=clock() - began)
            await patiently(lambda: write(self._database, claimed, answer, means))
        except AWAY as error:
            _log.warning(
                "what came of a webhook's call was not written; it is sent again", error=str(error).strip()
            )
        finally:
            self._under_way[claimed.webhook_id] -= 1
            if not self._under_way[claimed.webhook_id]:
                del self._under_way[claimed.webhook_id]
            self._wake.set()
        _log.info("webhook called", delivery=str(claimed.id), attempt=claimed.attempt, outcome=means.status)

    def _judge(self, webhook_id: UUID, means: Verdict, seconds: float) -> None:
        if means.status == "delivered" and seconds < _SLOW_SECONDS:
            self._troubled.discard(webhook_id)
        else:
            self._troubled.add(webhook_id)

    async def _end_stranded(self) -> None:
        clock = asyncio.get_running_loop().time()
        if clock >= self._next_look:
            await self._database.fetch(_SQL["end_stranded"], {"error": SWITCHED_OFF})
            self._next_look = clock + _STRANDED_LOOK_SECONDS
