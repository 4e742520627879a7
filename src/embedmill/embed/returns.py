"""Gives items back to the queue: after a failure, a limit, a stop, a loss. Owns which of an embedder's items go back,
when and with what verdict; must not make or write a call."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from uuid import UUID

from embedmill.core.batching import Packer, Unit
from embedmill.core.retrying import backoff_seconds
from embedmill.database.patience import patiently
from embedmill.database.pool import Database
from embedmill.embed.holding import HeldItem, Holdings
from embedmill.embed.traffic import Flight, Traffic
from embedmill.errors import BadResponseError, ProviderError
from embedmill.events import Event, ItemsEnded
from embedmill.ports import SILENT, Telemetry
from embedmill.queue.items import Item, Return, Waiting, return_items

# Ends them in the database, where their flag says so.
_CANCELLED = Return(Waiting.PENDING, 0, 0, "cancelled", None)


class Returns:
    """What one embedder gives back. An item with a call in flight waits for that call's end with its verdict."""

    def __init__(
        self,
        database: Database,
        generation_id: int,
        *,
        packer: Packer,
        holdings: Holdings,
        traffic: Traffic,
        on_event: Callable[[Event], None],
        chance: random.Random,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._database = database
        self._generation_id = generation_id
        self._packer = packer
        self._holdings = holdings
        self._traffic = traffic
        self._on_event = on_event
        self._chance = chance
        self._telemetry = telemetry

    def judge(
        self, units: Sequence[Unit], reason: str, error: ProviderError, *, delay_seconds: float = 0.0
    ) -> None:
        """No attempt is spent: it is nobody's fault, or not theirs."""
        status = Waiting.RATE_LIMITED if reason == "rate_limited" else Waiting.PENDING
        self._judge(units, Return(status, 0, int(delay_seconds * 1000), reason, str(error)))

    def judge_failed(self, units: Sequence[Unit], error: ProviderError) -> None:
        """An attempt is spent; the wait grows with the attempts of the most tried item."""
        items = self._holdings.items(target.item_id for unit in units for target in unit.targets)
        attempts = max((item.retry_count for item in items), default=0)
        delay = max(error.retry_after_seconds or 0.0, 1.0 + backoff_seconds(attempts + 1, self._chance))
        reason = "bad_response" if isinstance(error, BadResponseError) else "provider_unavailable"
        self._judge(units, Return(Waiting.PENDING, 1, int(delay * 1000), reason, str(error)))

    async def settle(self, flight: Flight) -> None:
        """A call is over: its items with a verdict go back, unless more of theirs is in flight."""
        due = self._traffic.end(flight, self._holdings)
        verdicts: dict[Return, list[HeldItem]] = {}
        for held in due:
            if held.verdict is not None:
                verdicts.setdefault(held.verdict, []).append(held)
        for verdict, group in verdicts.items():
            await self._give_back([held.item for held in group], verdict)

    async def give_back_rest(self, *, in_flight: bool) -> None:
        """What was claimed and not begun goes back unharmed, for others to take at once; what has a part in flight
        when that is over."""
        rest = [held.item for held in self._holdings.all() if in_flight or not held.calls_in_flight]
        self._packer.drop_items([item.id for item in rest])
        await self._give_back(rest, Return(Waiting.PENDING, 0, 0, "stopped", None))

    async def stop(self, item_ids: Collection[int]) -> None:
        """Somebody has cancelled the job of these items. Nothing more of them is sent; what the provider has of them is
        written before they go back. The database ends them, unless they were resumed meanwhile."""
        cancelled = [held for item_id in item_ids if (held := self._holdings.get(item_id)) is not None]
        for held in cancelled:
            held.verdict = _CANCELLED
        self._packer.drop_items([held.item.id for held in cancelled])
        idle = [held for held in cancelled if not self._traffic.is_sent(held)]
        if any(held.calls_in_flight for held in idle):
            self._holdings.has_let_go = True
        await self._give_back([held.item for held in idle], _CANCELLED)

    def turn_away(self, units: list[Unit], jobs: Collection[UUID] | None, verdict: Return) -> None:
        """Take out of a call that is about to be sent what these jobs would pay for (None: all of it), and give their
        items back."""
        items = self._holdings.items(target.item_id for unit in units for target in unit.targets)
        away = {item.id for item in items if jobs is None or item.job_id in jobs}
        for item in items:
            held = self._holdings.get(item.id)
            if item.id in away and held is not None:
                held.verdict = verdict
        for unit in units:
            unit.targets[:] = [target for target in unit.targets if target.item_id not in away]
        self._traffic.close([unit for unit in units if not unit.targets])
        units[:] = [unit for unit in units if unit.targets]
        self._packer.drop_items(away)

    async def give_back_incomplete(self, items: Sequence[Item]) -> None:
        """Items that should have ended but miss a vector: back to the queue, which finds what is missing."""
        await self._give_back(items, Return(Waiting.PENDING, 0, 0, "incomplete", None))

    def drop_lost(self, units: list[Unit], lost: Collection[int]) -> None:
        """Take what is no longer ours out of a call that is about to be sent, and out of the calls to come."""
        self._packer.drop_items(item_id for item_id in lost if item_id not in self._holdings)
        kept: list[Unit] = []
        gone: list[Unit] = []
        for unit in units:
            held = [target for target in unit.targets if target.item_id in self._holdings]
            (gone if unit.targets and not held else kept).append(unit)
            unit.targets[:] = held
        self._traffic.close(gone)
        units[:] = kept

    def _judge(self, units: Sequence[Unit], verdict: Return) -> None:
        """The items of these units go back once nothing of theirs is in flight."""
        self._traffic.close(units)
        item_ids = {target.item_id for unit in units for target in unit.targets}
        for item_id in item_ids:
            held = self._holdings.get(item_id)
            if held is not None:
                held.verdict = verdict
        self._packer.drop_items(item_ids)

    async def _give_back(self, items: Sequence[Item], verdict: Return) -> None:
        self._holdings.forget(items)  # first: once they are back, a claim may bring them again at once
        ended = await patiently(partial(return_items, self._database, items, verdict))
        if items:
            self._telemetry.returned(items=len(items), reason=verdict.reason)
        if ended:
            self._on_event(ItemsEnded(self._generation_id, failed=len(ended)))
