"""Which texts this process has on their way to a provider, or just brought home. Owns the promise that one
process does not pay for a text twice at the same time; what the database knows, the loader asks it.

A text's life here: aloft (its call is out: more chunks of the same text may board), landing (the response is
being written: nobody boards, who needs the text waits), home (its vector stands in the database).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from embedmill.core.batching import Unit
from embedmill.embed.holding import HeldItem, Holdings


class Flight:
    """One call on its way: its units, and the items that have a chunk on board. `is_sent` from when the provider has
    it, until it has failed or its end: what is on board is, or may be, paid for."""

    def __init__(self, units: list[Unit], passengers: list[HeldItem]) -> None:
        self.units = units
        self.passengers = set(passengers)
        self.is_sent = False


class Traffic:
    """All flights of one embedder."""

    def __init__(self) -> None:
        self._aloft: dict[bytes, tuple[Unit, Flight]] = {}
        self._landing: dict[bytes, asyncio.Future[None]] = {}
        self._flights: set[Flight] = set()

    def take_off(self, units: list[Unit], holdings: Holdings) -> Flight:
        flight = Flight(units, holdings.depart(target.item_id for unit in units for target in unit.targets))
        for unit in units:
            self._aloft[unit.content_hash] = (unit, flight)
        self._flights.add(flight)
        return flight

    def is_sent(self, held: HeldItem) -> bool:
        """Whether the provider has, or has answered, a call with a part of this item."""
        return any(flight.is_sent and held in flight.passengers for flight in self._flights)

    def board(self, unit: Unit, holdings: Holdings) -> bool:
        """Join a call that carries the same text; False where there is none (or it is a suspect's own)."""
        found = self._aloft.get(unit.content_hash)
        if found is None or found[0].group != unit.group:
            return False
        travelling, flight = found
        travelling.targets.extend(unit.targets)
        newcomers = {
            target.item_id for target in unit.targets if holdings.get(target.item_id) not in flight.passengers
        }
        flight.passengers.update(holdings.depart(newcomers))
        return True

    def close(self, units: Sequence[Unit]) -> None:
        """No answer will come for these units any more: from now on nobody boards them."""
        for unit in units:
            found = self._aloft.get(unit.content_hash)
            if found is not None and found[0] is unit:
                del self._aloft[unit.content_hash]

    def touch_down(self, units: Sequence[Unit]) -> asyncio.Future[None]:
        """The response is here and will be written: from now on nobody boards these units."""
        landing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.close(units)
        for unit in units:
            self._landing[unit.content_hash] = landing
        return landing

    def arrive_home(self, units: Sequence[Unit], landing: asyncio.Future[None]) -> None:
        """The write is over, one way or the other: those who waited go on."""
        for unit in units:
            if self._landing.get(unit.content_hash) is landing:
                del self._landing[unit.content_hash]
        landing.set_result(None)

    def end(self, flight: Flight, holdings: Holdings) -> list[HeldItem]:
        """The call is over for good; returns the items that may go back now."""
        self.close(flight.units)
        self._flights.discard(flight)
        return holdings.arrive(flight.passengers)

    async def landed(self, content_hashes: Iterable[bytes]) -> None:
        """Wait until none of these texts is being written."""
        landings = {id(f): f for h in content_hashes if (f := self._landing.get(h)) is not None}
        for landing in landings.values():
            await asyncio.shield(landing)
