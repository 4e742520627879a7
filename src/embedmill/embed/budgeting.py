"""Keeps an embedder within its tenant's and its jobs' budgets: reserves what a call may cost before it is made. Owns
the asking; the sums are the database's, under a lock (functions/52_budgets.sql), and what a call did cost is entered
with the ledger's row (books.py). Where the tenant has no budget, or the pipeline costs nothing, nothing is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from uuid import UUID, uuid4

import msgspec

from embedmill.core.batching import Unit
from embedmill.core.pricing import cost_usd
from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.embed.gate import LONGEST_WAIT_SECONDS, Gate, ProviderAwayError, Seat
from embedmill.embed.holding import Holdings
from embedmill.embed.results import Reservation
from embedmill.embed.returns import Returns
from embedmill.errors import RateLimitedError
from embedmill.queue.items import Return, Waiting

_SQL = load_queries("embedmill.embed", "embed.sql")

# Where a budget has no room because of calls that are under way: how often it is asked again, and when what goes back
# to the queue is tried again.
POLL_SECONDS = 0.25
PAUSE_SECONDS = 2.0
# As many items are parked in one transaction.
PARKED_AT_ONCE = 10_000


class Refusal(msgspec.Struct, frozen=True):
    """A budget that has no room for a call. `job_id` is None where it is the tenant's own; `is_reached`: until a
    person acts, else for as long as calls are under way that may need the room."""

    budget_id: int
    job_id: UUID | None
    is_reached: bool
    message: str


class Budgets:
    """The budgets over one pipeline's calls."""

    def __init__(self, database: Database, pipeline: Pipeline, worker_id: UUID) -> None:
        self._database = database
        self._tenant_id = pipeline.tenant_id
        self._price = pipeline.price_per_million_tokens
        self._worker_id = worker_id
        self._is_watched = False

    def watch(self, *, has_budget: bool) -> None:
        """Whether the tenant has any budget by now, be it for a job. Told with what is loaded, and by the worker's look
        every two seconds: a budget that is younger than the last of both does not bind yet."""
        self._is_watched = has_budget

    @property
    def bind(self) -> bool:
        """Whether a call needs a reservation. An unknown price cannot be counted."""
        return self._is_watched and bool(self._price)

    async def reserve(self, reservation: Reservation) -> list[Refusal]:
        """Reserve for a call; [] where it may be made, else every budget that has no room, and nothing is reserved."""
        rows = await patiently(
            partial(
                self._database.fetch,
                _SQL["reserve_budget"],
                {
                    "tenant_id": self._tenant_id,
                    "worker_id": self._worker_id,
                    "call_id": reservation.call_id,
                    "amount": cost_usd(reservation.tokens, self._price),
                    "jobs": reservation.jobs,
                    "amounts": [cost_usd(tokens, self._price) for tokens in reservation.job_tokens],
                },
            )
        )
        return [Refusal(row[0], row[1], row[2] == "reached", _message(row)) for row in rows]

    async def release(self, reservation: Reservation | None) -> None:
        """The call was not made, or not charged."""
        if reservation is None:
            return
        nothing = [cost_usd(0, self._price)] * len(reservation.jobs)
        await patiently(
            partial(
                self._database.fetch,
                _SQL["settle_budget"],
                {
                    "tenant_id": self._tenant_id,
                    "call_id": reservation.call_id,
                    "amount": cost_usd(0, self._price),
                    "jobs": reservation.jobs,
                    "amounts": nothing,
                },
            )
        )

    async def park(self, refusals: Iterable[Refusal], reservation: Reservation) -> None:
        """Let all wait that waits on budgets which are reached, and say so on its jobs."""
        for refusal in refusals:
            jobs = reservation.jobs if refusal.job_id is None else [refusal.job_id]
            tokens = (
                reservation.tokens
                if refusal.job_id is None
                else reservation.job_tokens[reservation.jobs.index(refusal.job_id)]
            )
            parked = PARKED_AT_ONCE
            while parked == PARKED_AT_ONCE:
                rows = await patiently(
                    partial(
                        self._database.fetch,
                        _SQL["park_budget"],
                        {
                            "budget_id": refusal.budget_id,
                            "amount": cost_usd(tokens, self._price),
                            "jobs": jobs,
                            "limit": PARKED_AT_ONCE,
                        },
                    )
                )
                parked = rows[0][0]


class Cashier:
    """Asks for the budget of one embedder's calls, and turns away what has none."""

    def __init__(self, budgets: Budgets, gate: Gate, seat: Seat, returns: Returns) -> None:
        self._budgets = budgets
        self._gate = gate
        self._seat = seat
        self._returns = returns

    async def reserve(self, units: list[Unit], holdings: Holdings) -> Reservation | None:
        """Reserve what the call may cost. What a budget has no room for is taken out of the call, and the others go
        on. Where calls that are under way may still leave the room, they are waited for: RateLimitedError where that
        takes too long, ProviderAwayError where the seat is over first."""
        call_id = uuid4()
        waited = 0.0
        while units and self._budgets.bind:
            tokens = sum(unit.tokens for unit in units)
            reservation = reservation_for(call_id, max(tokens, self._gate.expected(tokens)), units, holdings)
            refusals = await self._budgets.reserve(reservation)
            if not refusals:
                return reservation
            reached = [refusal for refusal in refusals if refusal.is_reached]
            jobs = _jobs(reached or refusals)
            message = (reached or refusals)[0].message
            if reached:
                await self._budgets.park(reached, reservation)
                self._returns.turn_away(units, jobs, Return(Waiting.PENDING, 0, 0, "budget", message))
            elif jobs is not None and set(reservation.jobs) - jobs:
                later = Return(Waiting.RATE_LIMITED, 0, int(PAUSE_SECONDS * 1000), "rate_limited", message)
                self._returns.turn_away(units, jobs, later)
            elif waited > LONGEST_WAIT_SECONDS:
                raise RateLimitedError(message, retry_after_seconds=PAUSE_SECONDS)
            elif self._seat.is_over:
                raise ProviderAwayError("given up before it was sent")
            else:
                await self._seat.pause(POLL_SECONDS)
                waited += POLL_SECONDS
                if holdings.has_let_go:
                    self._returns.drop_lost(units, ())
        return None


def _jobs(refusals: Sequence[Refusal]) -> set[UUID] | None:
    """The jobs that these budgets stop; None for all."""
    jobs = {refusal.job_id for refusal in refusals if refusal.job_id is not None}
    return jobs if len(jobs) == len(refusals) else None


def reservation_for(call_id: UUID, tokens: int, units: Sequence[Unit], holdings: Holdings) -> Reservation:
    """What a call of about `tokens` would reserve, and for which jobs: a text is at the expense of the first that
    asks for it, as in the ledger."""
    estimated = sum(unit.tokens for unit in units)
    by_job: Counter[UUID] = Counter()
    for unit in units:
        job_id = payer(unit, holdings)
        if job_id is not None:
            by_job[job_id] += unit.tokens
    jobs = sorted(by_job)
    shares = [-(-by_job[job] * tokens // max(estimated, 1)) for job in jobs]
    return Reservation(call_id, tokens, jobs, shares)


def payer(unit: Unit, holdings: Holdings) -> UUID | None:
    """The job at whose expense a text is sent; None where its item has none."""
    for target in unit.targets:
        held = holdings.get(target.item_id)
        if held is not None:
            return held.item.job_id
    return None


def _message(row: Sequence[object]) -> str:
    whose = "tenant's" if row[1] is None else "job's"
    if row[2] == "reached":
        return (
            f"budget reached: {row[4]:f} of the {whose} {row[3]:f} USD are spent, and the next call would pass it: "
            "raise or remove the budget"
        )
    return f"what is left of the {whose} budget of {row[3]:f} USD is reserved by calls that are under way"
