"""A backfill carried out by its own command: a worker and a reader in this process, a screen, a report. Owns the story
and how it ends; workers elsewhere share the work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from embedmill.cli.backfill_screen import show_backfill
from embedmill.core.pricing import format_usd
from embedmill.database.patience import patiently
from embedmill.sources.backfill_orders import (
    BackfillSource,
    BackfillState,
    Failure,
    backfill_failures,
    backfill_state,
    backfilled_chunks,
)
from embedmill.worker.loop import Worker, WorkerOptions

if TYPE_CHECKING:
    from decimal import Decimal
    from uuid import UUID

    from embedmill.app import App
    from embedmill.events import Event
    from embedmill.worker.loop import Companion

_POLL_SECONDS = 0.2


class BackfillReport(msgspec.Struct, frozen=True):
    """What was done: rows walked past and read since the walk began, chunks that its items brought, what its own calls
    cost (None: the price is unknown), rows that are not embedded and why."""

    source: str
    pipeline: str
    seconds: float
    rows_walked: int
    rows_read: int
    rows_left: int | None
    embedded_chunks: int
    tokens: int
    cost_usd: Decimal | None
    coverage_percent: float
    ended: str | None
    failures: list[Failure]
    interrupted: bool
    error: str | None
    exit_status: int

    def show(self) -> None:
        """For people: one line for each thing worth knowing."""
        left = "" if self.rows_left is None else f", {self.rows_left:,} left"
        print(f"rows      {self.rows_walked:,} walked past, {self.rows_read:,} read{left}")
        for failure in self.failures:
            print(f"failed    {failure.rows:,} {failure.reason}: {failure.message}")
        print(f"embedded  {self.embedded_chunks:,} chunks in {self.seconds:.1f} s")
        print(f"paid      {self.tokens:,} tokens, cost {format_usd(self.cost_usd)}")
        print(f"coverage  {self.coverage_percent:.4g}% of {self.source} in pipeline {self.pipeline!r}")
        if self.error:
            print(f"stopped   {self.error}")
        elif self.interrupted:
            print(
                f"stopped   what is done is kept; `embedmill backfill {self.source}` goes on, and so do workers"
            )
        elif self.ended not in (None, "done"):
            print(f"ended     {self.ended}; `embedmill backfill {self.source}` goes on where it was")


class BackfillRun:
    """One run of the command, on a walk that was ordered."""

    def __init__(self, app: App, source: BackfillSource, *, as_json: bool) -> None:
        self._app = app
        self._source = source
        self._as_json = as_json
        self._interrupted = asyncio.Event()
        self._fatal: str | None = None
        self._trouble: str | None = None
        self._generation_id = -1
        self._started = time.monotonic()

    async def tell(self) -> BackfillReport:
        self._generation_id = (await self._app.pipeline(self._source.pipeline)).generation.id
        worker = self._worker()
        self._listen_to_signals(worker)
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(worker.run())
            showing = tasks.create_task(
                show_backfill(self._state, as_json=self._as_json, trouble=lambda: self._trouble)
            )
            try:
                await self._until_done(working)
                if not self._interrupted.is_set():
                    await worker.settle_indexes()
            finally:
                worker.stop()
                showing.cancel()
            await working
        return await self._report()

    def _worker(self) -> Worker:
        """Embeds whatever is ready; of sources it reads this one."""

        def companions(worker_id: UUID) -> list[Companion]:
            return [
                self._app.record_reader(worker_id, source_ids=[self._source.id]),
                self._app.column_writer(),
            ]

        options = WorkerOptions(calls_in_flight=self._app.settings.calls_in_flight)
        return Worker(
            self._app.database, self._app.provider, options, on_event=self._note, companions=companions
        )

    async def _until_done(self, working: asyncio.Task[None]) -> None:
        """Until the walk has ended and nothing of it waits, or it cannot go on, or the person has had enough."""
        while not self._interrupted.is_set() and self._fatal is None and not working.done():
            state = await self._state()
            if not state.is_running and not state.waiting and not state.changes:
                return
            self._fatal = self._fatal or _obstacle(state)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._interrupted.wait(), _POLL_SECONDS)

    async def _state(self) -> BackfillState:
        return await patiently(lambda: backfill_state(self._app.database, self._source))

    async def _report(self) -> BackfillReport:
        """Read how it ended: from the database, not from what this process believes."""
        database = self._app.database
        state = await self._state()
        failures = await backfill_failures(database, await self._app.tenant_id(), self._source)
        interrupted = self._interrupted.is_set()
        # What failed long ago and is known is told, and is no failure of this run.
        has_failed = self._fatal is not None or any(failure.fresh for failure in failures)
        status = 130 if interrupted else 1 if has_failed else 3 if state.is_out_of_budget else 0
        return BackfillReport(
            source=state.name,
            pipeline=state.pipeline,
            seconds=round(time.monotonic() - self._started, 2),
            rows_walked=state.rows_walked,
            rows_read=state.rows_read,
            rows_left=state.rows_left,
            embedded_chunks=await backfilled_chunks(database, self._source),
            tokens=state.tokens,
            cost_usd=state.cost_usd if state.is_priced else None,
            coverage_percent=state.coverage_percent,
            ended=state.end_reason,
            failures=failures,
            interrupted=interrupted,
            error=self._fatal,
            exit_status=status,
        )

    def _listen_to_signals(self, worker: Worker) -> None:
        """The first Ctrl-C ends in order, the second at once."""

        def interrupt() -> None:
            if self._interrupted.is_set():
                sys.exit(130)
            self._interrupted.set()
            worker.stop()
            print("\nending: calls under way are written, the rest stays queued", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)

    def _note(self, event: Event) -> None:
        from embedmill.events import CallFailed, CallSucceeded

        if event.generation_id != self._generation_id:
            return
        if isinstance(event, CallFailed):
            self._trouble = event.message
            if event.fatal:
                self._fatal = event.message
        elif isinstance(event, CallSucceeded):
            self._trouble = None


def _obstacle(state: BackfillState) -> str | None:
    """What a person must do before it can go on."""
    if state.is_paused:
        return f"{state.name} is paused: `embedmill table resume {state.name}` goes on"
    if state.is_pipeline_paused:
        return f"pipeline {state.pipeline!r} is paused: `embedmill queue resume --pipeline {state.pipeline}` goes on"
    return state.trouble
