"""The fleet of one machine: as many worker processes as are asked for, or as the backlog needs. Owns how many there
are; each keeps itself running (seat.py), and what is right is core/scaling.py's to say. Must not touch the queue.

Other machines have their own supervisors: only the processes of this one are counted and bounded here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from embedmill.core.scaling import Decision, Scaler, ScalingLimits
from embedmill.database.patience import AWAY
from embedmill.database.pool import Database
from embedmill.errors import EmbedmillError
from embedmill.fleet.events import DatabaseAway, DatabaseBack, FleetEvent, FleetResized
from embedmill.fleet.facts import read_facts
from embedmill.fleet.roster import is_place_kept
from embedmill.fleet.seat import Seat, SeatOptions
from embedmill.queue.config import QueueConfig, read_config
from embedmill.worker.identity import current_identity

_log = structlog.get_logger(__name__)

# With --until-empty somebody waits for the end: so many deaths in a row, in every seat, and there is none.
HOPELESS_FAILURES = 5


class SupervisorOptions(msgspec.Struct, frozen=True):
    """`processes` of None: as many as the backlog needs, within the queue's configuration."""

    processes: int | None
    local_maximum: int
    poll_seconds: float = 2.0
    seat: SeatOptions = SeatOptions()


class Supervisor:
    """Runs worker processes until it is told to stop, or, where they end by themselves, until all have."""

    def __init__(
        self,
        database: Database,
        command: Sequence[str],
        options: SupervisorOptions,
        *,
        on_event: Callable[[FleetEvent], None] = lambda event: None,
        chance: random.Random,
        read_config: Callable[[Database], Awaitable[QueueConfig]] = read_config,
    ) -> None:
        self._database = database
        self._command = tuple(command)
        self._options = options
        self._on_event = on_event
        self._chance = chance
        self._read_config = read_config
        self._stopping = asyncio.Event()
        self._seats: dict[Seat, asyncio.Task[None]] = {}
        self._leaving: dict[Seat, asyncio.Task[None]] = {}
        self._is_emptied = False
        self._is_database_away = False
        self._host_id = current_identity().host_id
        self.decision = Decision(0, "not started")
        """How many processes there should be, and why."""
        self.killed = 0
        """Processes that did not stop in time."""

    @property
    def pids(self) -> list[int]:
        """The processes that run, those that are about to stop included."""
        return [seat.pid for seat in (*self._seats, *self._leaving) if seat.pid is not None]

    def stop(self) -> None:
        """Ask all processes, once, to end in order."""
        self._stopping.set()

    def kill(self) -> None:
        """End all processes at once; what they held goes to others when their leases are recovered."""
        self._stopping.set()
        for seat in (*self._seats, *self._leaving):
            seat.kill()

    async def run(self) -> None:
        """Until `stop()`, and the end of every process. Raises EmbedmillError where the processes should end by
        themselves and die at their start instead, again and again."""
        async with asyncio.TaskGroup() as tasks:
            steering = asyncio.create_task(self._steer(tasks))
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait((steering, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                # In order even where steering failed: the tasks of the group are ended before it hears of it.
                stopping.cancel()
                await self._end(steering)
            if not steering.cancelled():
                steering.result()

    async def _end(self, steering: asyncio.Task[None]) -> None:
        steering.cancel()
        await asyncio.wait((steering,))
        for seat in tuple(self._seats):
            self._give_up(seat)
        while self._leaving:
            await asyncio.wait(self._leaving.values())

    async def _steer(self, tasks: asyncio.TaskGroup) -> None:
        """Fill and empty seats until nothing is left to do."""
        if self._options.processes is None:
            await self._scale(tasks)
        else:
            self._resize(Decision(self._options.processes, "as asked"), self._options.processes, tasks)
            await self._until_finished()

    async def _scale(self, tasks: asyncio.TaskGroup) -> None:
        limits = self._limits(await self._patient_config())
        scaler = Scaler(limits.minimum, time.monotonic())
        self._resize(scaler.decision, limits.maximum, tasks)
        while not await self._until_finished(self._options.poll_seconds):
            try:
                limits = self._limits(await self._read_config(self._database))
                pids = [seat.pid for seat in self._seats if seat.pid is not None]
                failing = sum(seat.is_failing for seat in self._seats)
                drained = sum(seat.is_kept_empty for seat in self._seats)
                facts = await read_facts(
                    self._database, self._host_id, pids, failing=failing, drained=drained
                )
            except AWAY as error:
                self._note_away(str(error).strip())
                continue
            self._note_back()
            before = self.decision
            decision = scaler.decide(facts, limits, time.monotonic())
            if decision.reason != before.reason:
                _log.debug("fleet decided", processes=decision.processes, reason=decision.reason, facts=facts)
            self._resize(decision, limits.maximum, tasks)

    async def _patient_config(self) -> QueueConfig:
        while True:
            try:
                return await self._read_config(self._database)
            except AWAY as error:
                self._note_away(str(error).strip())
                await asyncio.sleep(self._options.poll_seconds)

    def _limits(self, config: QueueConfig) -> ScalingLimits:
        return ScalingLimits(
            minimum=min(config.min_concurrent_workers, config.max_concurrent_workers),
            maximum=config.max_concurrent_workers,
            local_maximum=self._options.local_maximum,
            up_after_seconds=config.scale_up_after_seconds,
            down_after_seconds=config.scale_down_after_seconds,
        )

    def _resize(self, decision: Decision, maximum: int, tasks: asyncio.TaskGroup) -> None:
        """Fill or empty seats. Those that are still stopping count against the maximum: a machine never runs more
        processes than its owner allowed, for the price of starting some a moment later."""
        if decision.processes != self.decision.processes:
            self._announce(FleetResized(decision.processes, decision.reason))
        self.decision = decision
        wanted = 0 if self._is_emptied else decision.processes
        while len(self._seats) > wanted and not self._is_emptied:
            self._give_up(self._most_dispensable())
        while len(self._seats) < wanted and len(self._seats) + len(self._leaving) < maximum:
            self._fill(tasks)

    def _fill(self, tasks: asyncio.TaskGroup) -> None:
        seat = Seat(
            self._command,
            self._options.seat,
            on_event=self._announce,
            chance=self._chance,
            until_asked=self._until_asked,
        )
        task = tasks.create_task(seat.run())
        self._seats[seat] = task
        task.add_done_callback(lambda _: self._forget(seat))

    async def _until_asked(self, pid: int) -> None:
        """Until somebody asks for another process in the place of the one of this number, which was drained."""
        while True:
            await asyncio.sleep(self._options.poll_seconds)
            try:
                is_kept = await is_place_kept(self._database, self._host_id, pid)
            except AWAY as error:
                self._note_away(str(error).strip())
                continue
            self._note_back()
            if not is_kept:
                return

    def _give_up(self, seat: Seat) -> None:
        self._leaving[seat] = self._seats.pop(seat)
        seat.stop()

    def _forget(self, seat: Seat) -> None:
        self._seats.pop(seat, None)
        self._leaving.pop(seat, None)
        self.killed += seat.was_killed
        self._is_emptied = self._is_emptied or seat.is_finished

    def _most_dispensable(self) -> Seat:
        """One without a process, else the one that was started last: it has the least to give back."""
        return next((seat for seat in self._seats if seat.pid is None), [*self._seats][-1])

    async def _until_finished(self, seconds: float | None = None) -> bool:
        """Wait, at most so long, until every seat has finished; whether they have. Raises EmbedmillError where
        they never will."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._seats or not self._is_emptied:
            # A short wait, since deaths within a seat wake nobody.
            wait = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if wait <= 0:
                return False
            await (asyncio.wait(self._seats.values(), timeout=wait) if self._seats else asyncio.sleep(wait))
            if self._is_emptied:  # nothing is left to do: nobody need wait for places that are kept empty
                for seat in [each for each in self._seats if each.is_kept_empty]:
                    self._give_up(seat)
            if self._options.seat.ends_by_itself:
                self._refuse_hopelessness()
        return True

    def _refuse_hopelessness(self) -> None:
        if self._seats and all(seat.failures >= HOPELESS_FAILURES for seat in self._seats):
            how = next(seat.last_failure for seat in self._seats)
            raise EmbedmillError(
                f"every worker process died {HOPELESS_FAILURES} times in a row ({how}): what they said stands "
                "above; `embedmill worker --until-empty` runs one of them alone"
            )

    def _note_away(self, message: str) -> None:
        if not self._is_database_away:
            self._announce(DatabaseAway(message))
        self._is_database_away = True

    def _note_back(self) -> None:
        if self._is_database_away:
            self._announce(DatabaseBack())
        self._is_database_away = False

    def _announce(self, event: FleetEvent) -> None:
        _log.info("fleet", happened=type(event).__name__, **msgspec.structs.asdict(event))
        self._on_event(event)
