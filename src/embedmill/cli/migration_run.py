"""A migration as a command sees it: a builder and a worker in this process, a screen, the comparison, the switch. Owns
the story and how it ends; whoever else works on the same build is welcome."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from embedmill.cli.generation_table import comparison_sentence
from embedmill.cli.migration_screen import show_build
from embedmill.core.pricing import format_usd
from embedmill.database.patience import patiently
from embedmill.database.pipelines import pipeline_of_generation
from embedmill.embed.comparison import compare_generations
from embedmill.embed.generation_states import Comparison, GenerationState, Stage
from embedmill.embed.generations import keep_index
from embedmill.embed.migrating import Migrations
from embedmill.errors import ConflictError

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.database.pipelines import Pipeline
    from embedmill.embed.building import GenerationBuilder
    from embedmill.embed.next_spec import Changes
    from embedmill.events import Event
    from embedmill.worker.loop import Worker

_POLL_SECONDS = 0.3


class MigrationReport(msgspec.Struct, frozen=True):
    """What came of it. Costs in US dollars, None where the price is unknown."""

    pipeline: str
    generation: int
    model: str
    stage: str
    coverage: float
    embedded: int
    cost_usd: Decimal | None
    tokens: int
    comparison: Comparison | None
    seconds: float
    error: str | None = None
    exit_status: int = 0

    def show(self) -> None:
        """For people."""
        print(
            f"generation {self.generation} ({self.model}): {self.stage}, {self.coverage:.1%}, "
            f"{self.embedded:,} vectors, {self.tokens:,} tokens, {format_usd(self.cost_usd)}, {self.seconds:.1f} s"
        )
        if self.error:
            print(self.error, file=sys.stderr)
        elif self.stage == Stage.LIVE:
            print(
                f"`embedmill pipeline rollback {self.pipeline}` goes back, `embedmill pipeline prune {self.pipeline}` "
                "drops the generation before"
            )


async def wanted_generation(
    app: App,
    pipeline: Pipeline,
    migrations: Migrations,
    changes: Changes,
    price: Decimal | None,
    budget_usd: Decimal | None,
    columns: Mapping[str, str],
) -> int:
    """The generation to build, begun if need be. With nothing said, the one that is being built. `columns`: of tables
    by name, where its vectors are to stand in a column."""
    if changes == type(changes)():
        for state in await migrations.states():
            if state.stage in (Stage.BUILDING, Stage.STOPPED, Stage.BUILT):
                return await migrations.go_on(state, budget_usd, columns)
        raise ConflictError(
            f"nothing is being built for pipeline {pipeline.name!r}: say what to change, such as --model"
        )
    wanted = await app.next_generation(
        pipeline, changes, price_per_million_tokens=price, budget_usd=budget_usd
    )
    return await migrations.start(wanted, columns)


class MigrationRun:
    """One run of the command."""

    def __init__(
        self, app: App, pipeline: Pipeline, migrations: Migrations, generation_id: int, *, quiet: bool
    ) -> None:
        self._app = app
        self._pipeline = pipeline
        self._migrations = migrations
        self._generation_id = generation_id
        self._quiet = quiet
        self._interrupted = asyncio.Event()
        self._fatal: str | None = None
        self._trouble: str | None = None
        self._started = time.monotonic()

    async def tell(self, *, switches: bool, samples: int) -> MigrationReport:
        state = await self._build()
        error, status = self._fatal, 1 if self._fatal else 0
        if self._interrupted.is_set():
            error = (
                f"interrupted: `embedmill pipeline migrate {self._pipeline.name}` goes on, and so do workers"
            )
            status = 130
        elif state.stage is Stage.STOPPED:
            error = (
                f"stopped: {state.stopped_reason}. `embedmill pipeline migrate {self._pipeline.name} --budget-usd "
                f"...` goes on, `embedmill pipeline migrate {self._pipeline.name} --cancel` drops it"
            )
            status = 3 if "budget" in (state.stopped_reason or "") else 1
        elif error is None:
            state = await self._compare(state, samples)
            if switches:
                try:
                    state = await self._switch(state)
                except ConflictError as conflict:
                    error, status = str(conflict), 1
        return MigrationReport(
            pipeline=self._pipeline.name,
            generation=state.number,
            model=state.spec.model,
            stage=str(state.stage),
            coverage=state.coverage,
            embedded=state.embedded,
            cost_usd=state.cost_usd,
            tokens=state.tokens,
            comparison=state.comparison,
            seconds=time.monotonic() - self._started,
            error=error,
            exit_status=status,
        )

    async def _build(self) -> GenerationState:
        """Until it stands, does not go on, or the person has had enough."""
        worker = self._app.worker(on_event=self._note)
        builder = self._app.generation_builder(pipeline_id=self._pipeline.id, poll_seconds=_POLL_SECONDS)
        self._listen_to_signals(worker, builder)
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(worker.run())
            building = tasks.create_task(builder.run())
            showing = tasks.create_task(
                show_build(self._state, quiet=self._quiet, trouble=lambda: self._trouble)
            )
            try:
                state = await self._until_built()
                if not self._interrupted.is_set():
                    await worker.settle_indexes()
            finally:
                builder.stop()
                worker.stop()
                showing.cancel()
            await building
            await working
        if state.stage is Stage.BUILT and not self._interrupted.is_set():
            # A worker has seen to it as a rule; a switch to a generation without its index would be felt.
            await keep_index(
                self._app.database, await pipeline_of_generation(self._app.database, self._generation_id)
            )
        return state

    async def _until_built(self) -> GenerationState:
        while True:
            state = await self._state()
            if state.stage is not Stage.BUILDING or self._interrupted.is_set() or self._fatal is not None:
                return state
            pipeline = await patiently(lambda: self._app.pipeline(self._pipeline.name))
            if pipeline.paused_at is not None:
                self._fatal = (
                    f"pipeline {pipeline.name!r} is paused: `embedmill queue resume --pipeline {pipeline.name}` "
                    "goes on"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._interrupted.wait(), _POLL_SECONDS)

    async def _state(self) -> GenerationState:
        return await patiently(lambda: self._migrations.state(self._generation_id))

    async def _compare(self, state: GenerationState, samples: int) -> GenerationState:
        live = next(each for each in await self._migrations.states() if each.is_live)
        if samples == 0 or live.id == state.id:
            return state
        chance = random.Random()  # noqa: S311 - which chunks are asked for is no secret
        await compare_generations(self._app.database, state, live, samples=samples, chance=chance)
        compared = await self._state()
        if compared.comparison is not None and not self._quiet:
            print(comparison_sentence(compared), file=sys.stderr)
        return compared

    async def _switch(self, state: GenerationState) -> GenerationState:
        if state.is_live:
            return state
        switched = await self._migrations.switch(to=state.number)
        if len({each.chunk_set for each in await self._migrations.states()}) > 1:
            await self._migrations.count_chunks_again()
        return switched

    def _listen_to_signals(self, worker: Worker, builder: GenerationBuilder) -> None:
        """The first Ctrl-C ends in order, the second at once."""

        def interrupt() -> None:
            if self._interrupted.is_set():
                sys.exit(130)
            self._interrupted.set()
            builder.stop()
            worker.stop()
            if not self._quiet:
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
