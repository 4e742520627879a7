"""From one generation of a pipeline to another: begins a build, switches, goes back, drops what is wanted no longer.
Owns what may be done when; the walk is building.py's. Each act is short transactions: searches and writers go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import TypeVar

import msgspec
import psycopg

from embedmill.core.documents import ChunkPlan
from embedmill.database.patience import patiently
from embedmill.database.pipelines import Pipeline, check_plan, check_storage
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.embed.generation_states import GenerationState, Stage, list_generations
from embedmill.embed.next_columns import choose_columns, set_columns
from embedmill.errors import ConfigurationError, ConflictError, DatabaseError
from embedmill.ports import ProviderSpec

T = TypeVar("T")

_SQL = load_queries("embedmill.embed", "migrating.sql")
# Locks are asked for a second or two at a time, since writers and searches wait behind whoever asks.
_LONGEST_WAIT_SECONDS = 300.0
_PAUSE_SECONDS = 0.25
_FAREWELL_SECONDS = 1.0
_ITEMS_PER_STEP = 500
_NO_COLUMNS: Mapping[str, str] = {}
_CHUNKS_PER_STEP = 5_000
_DOCUMENTS_PER_STEP = 2_000


class NextGeneration(msgspec.Struct, frozen=True):
    """What the next generation is to be; prices in US dollars for a million tokens, None: unknown."""

    spec: ProviderSpec
    storage: str
    chunk_plan: ChunkPlan
    price_per_million_tokens: Decimal | None
    budget_usd: Decimal | None = None


class Migrations:
    """The generations of one pipeline."""

    def __init__(self, database: Database, pipeline: Pipeline, *, actor: str | None = None) -> None:
        """`actor`: who the audit log names."""
        self._database = database
        self._pipeline = pipeline
        self._actor = actor

    async def states(self) -> list[GenerationState]:
        return await list_generations(self._database, self._pipeline.id)

    async def state(self, generation_id: int) -> GenerationState:
        """One of them; ConflictError where it is gone."""
        for each in await self.states():
            if each.id == generation_id:
                return each
        raise ConflictError("the generation that was worked on is gone: somebody has cancelled or pruned it")

    async def start(self, wanted: NextGeneration, columns: Mapping[str, str] = _NO_COLUMNS) -> int:
        """Begin to build it, or go on with it where it is being built already; returns the generation's id. `columns`:
        for each table whose vectors stand in a column of it, by name, the column that is for this generation's.

        Raises ConfigurationError where it is what is live, or cannot be, or a table has no column for it; ConflictError
        where another is being built.
        """
        states = await self.states()
        upcoming = next((each for each in states if _is_upcoming(each)), None)
        if upcoming is not None:
            return await self._go_on(upcoming, wanted, columns)
        live = next(each for each in states if each.is_live)
        if _is_same(live, wanted):
            raise ConfigurationError(
                f"pipeline {self._pipeline.name!r} is that already: name another --model, --dimensions, --storage or "
                "--chunk-tokens"
            )
        same = next((each for each in states if _is_same(each, wanted)), None)
        if same is not None:
            raise ConflictError(
                f"generation {same.number} is that already, and is kept current: "
                f"`embedmill pipeline switch {self._pipeline.name} --to {same.number}` makes it the live one"
            )
        check_storage(wanted.storage, wanted.spec.dimensions)
        check_plan(wanted.chunk_plan)
        if wanted.budget_usd is not None:
            _check_budget(wanted.spec, wanted.price_per_million_tokens)
        chosen = await choose_columns(
            self._database,
            self._pipeline.id,
            columns,
            type_name=f"{wanted.storage}({wanted.spec.dimensions})",
        )
        return await self._briefly(lambda: self._start_build(wanted, chosen))

    async def _start_build(self, wanted: NextGeneration, columns: Mapping[int, str]) -> int:
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                _SQL["start_build"],
                {
                    "pipeline_id": self._pipeline.id,
                    "spec": msgspec.json.encode(wanted.spec).decode(),
                    "dimensions": wanted.spec.dimensions,
                    "storage": wanted.storage,
                    "chunk_tokens": wanted.chunk_plan.max_tokens,
                    "chunk_overlap": wanted.chunk_plan.overlap_tokens,
                    "price": wanted.price_per_million_tokens,
                    "budget_usd": wanted.budget_usd,
                },
            )
            ((generation_id,),) = await cursor.fetchall()
            await set_columns(connection, generation_id, columns)
        return int(generation_id)

    async def _go_on(
        self, upcoming: GenerationState, wanted: NextGeneration, columns: Mapping[str, str]
    ) -> int:
        if not _is_same(upcoming, wanted):
            raise ConflictError(
                f"generation {upcoming.number} of pipeline {self._pipeline.name!r} ({upcoming.spec.model}) is not done "
                "with: go on with it, switch to it, or drop it with `embedmill pipeline migrate "
                f"{self._pipeline.name} --cancel`"
            )
        return await self.go_on(upcoming, wanted.budget_usd, columns)

    async def go_on(
        self,
        upcoming: GenerationState,
        budget_usd: Decimal | None = None,
        columns: Mapping[str, str] = _NO_COLUMNS,
    ) -> int:
        """A build goes on, where it was stopped; a budget that is given holds from now on, and a column that is named
        is filled with what was paid already. Returns its id."""
        if budget_usd is not None:
            _check_budget(upcoming.spec, upcoming.price_per_million_tokens)
        chosen = await choose_columns(
            self._database,
            self._pipeline.id,
            columns,
            type_name=f"{upcoming.storage}({upcoming.spec.dimensions})",
            generation_id=upcoming.id,
        )
        await self._briefly(lambda: self._resume_build(upcoming, budget_usd, chosen))
        return upcoming.id

    async def _resume_build(
        self, upcoming: GenerationState, budget_usd: Decimal | None, columns: Mapping[int, str]
    ) -> None:
        async with self._database.transaction() as connection:
            await set_columns(connection, upcoming.id, columns)
            await connection.execute(_SQL["go_on"], {"generation_id": upcoming.id, "budget_usd": budget_usd})

    async def cancel(self) -> GenerationState:
        """Drop the generation that was never live; returns what it was. ConflictError where there is none."""
        upcoming = next((each for each in await self.states() if _is_upcoming(each)), None)
        if upcoming is None:
            raise ConflictError(f"nothing is being built for pipeline {self._pipeline.name!r}")
        await self._database.fetch(
            _SQL["stop_build"], {"generation_id": upcoming.id, "reason": "it was cancelled"}
        )
        await self._drop_all([upcoming])
        return upcoming

    async def switch(self, *, to: int | None = None, force: bool = False) -> GenerationState:
        """Make the next generation (or that of the number `to`) the live one, at once for searches and the view.

        Raises ConflictError where there is none, it is unfinished or lacks something (unless `force`), or objects of
        users depend on the view and its type changes.
        """
        chosen = self._choose(await self.states(), to)
        if not force:
            self._assert_ready(chosen)
        return await self._switch_to(chosen, "pipeline.switch")

    async def roll_back(self) -> GenerationState:
        """Back to the generation that was live before, at once. ConflictError where none was, or it was pruned."""
        kept = [each for each in await self.states() if each.stage is Stage.KEPT]
        if not kept:
            raise ConflictError(
                f"there is no generation to go back to: pipeline {self._pipeline.name!r} was never switched, or what "
                "was live before is pruned"
            )
        before = max(
            kept, key=lambda each: (each.switched_at is not None and each.switched_at.timestamp(), each.id)
        )
        return await self._switch_to(before, "pipeline.rollback")

    async def prune(self, *, force: bool = False) -> list[GenerationState]:
        """Drop all generations but the live one; returns what they were. ConflictError while one is being built, or was
        built and never live (unless `force`)."""
        others = [each for each in await self.states() if not each.is_live]
        upcoming = next((each for each in others if _is_upcoming(each)), None)
        if upcoming is not None and not force:
            raise ConflictError(
                f"generation {upcoming.number} ({upcoming.spec.model}) was never live: switch to it first, or say "
                "--force to drop it as well"
            )
        for each in others:
            if each.is_unfinished:
                await self._database.fetch(
                    _SQL["stop_build"], {"generation_id": each.id, "reason": "it was pruned"}
                )
        await self._drop_all(others)
        return others

    async def count_chunks_again(self) -> None:
        """After a switch to another plan: what documents say of how many chunks they have. Nothing hangs on it."""
        live = next(each for each in await self.states() if each.is_live)
        after: int | None = 0
        while after is not None:
            asked = {
                "pipeline_id": self._pipeline.id,
                "chunk_set": live.chunk_set,
                "after": after,
                "limit": _DOCUMENTS_PER_STEP,
            }
            rows = await patiently(lambda: self._database.fetch(_SQL["count_chunks_again"], asked))  # noqa: B023
            after = rows[0][0]

    def _choose(self, states: list[GenerationState], to: int | None) -> GenerationState:
        if to is not None:
            found = next((each for each in states if each.number == to), None)
            if found is None:
                numbers = ", ".join(str(each.number) for each in states)
                raise ConflictError(f"there is no generation {to}; there are: {numbers}")
        else:
            found = next((each for each in reversed(states) if _is_upcoming(each)), None)
            if found is None:
                live = next(each for each in states if each.is_live)
                found = next((each for each in reversed(states) if each.number > live.number), None)
            if found is None:
                raise ConflictError(
                    f"pipeline {self._pipeline.name!r} has no next generation: `embedmill pipeline migrate` builds one"
                )
        if found.is_live:
            raise ConflictError(f"generation {found.number} is the live one already")
        return found

    def _assert_ready(self, chosen: GenerationState) -> None:
        name = self._pipeline.name
        if chosen.is_unfinished:
            why = f" ({chosen.stopped_reason})" if chosen.stopped_reason else ""
            raise ConflictError(
                f"generation {chosen.number} is not finished{why}: {chosen.coverage:.1%} of it stand. "
                f"`embedmill pipeline migrate {name}` goes on with it; --force switches all the same"
            )
        if chosen.failed:
            raise ConflictError(
                f"{chosen.failed} items or chunks of generation {chosen.number} failed, {chosen.coverage:.1%} of it "
                f"stand: `embedmill queue dead-letters --pipeline {name}` says why; --force switches all the same"
            )

    async def _switch_to(self, chosen: GenerationState, action: str) -> GenerationState:
        async def switch() -> None:
            async with self._database.transaction() as connection:
                if self._actor is not None:
                    await connection.execute(
                        "SELECT set_config('embedmill.actor', %(actor)s, true)", {"actor": self._actor}
                    )
                await connection.execute(_SQL["switch"], {"generation_id": chosen.id})
                await connection.execute(
                    _SQL["record_action"],
                    {
                        "tenant_id": self._pipeline.tenant_id,
                        "action": action,
                        "subject": self._pipeline.name,
                        "before": str(self._pipeline.generation.number),
                        "after": str(chosen.number),
                    },
                )

        await self._briefly(switch)
        return await self.state(chosen.id)

    async def _drop_all(self, generations: Sequence[GenerationState]) -> None:
        """And with them the chunks of a plan that no other has."""
        for each in generations:
            await self._drop(each)
        left = {each.chunk_set for each in await self.states()}
        if {each.chunk_set for each in generations} <= left and left == {1}:
            return
        await self._remove_unused_chunks()

    async def _drop(self, generation: GenerationState) -> None:
        """First its items, some at a time, then the rest of it. Workers that were about to copy a vector from it have a
        moment to do so."""
        await self._database.fetch(_SQL["retire"], {"generation_id": generation.id})
        retired_at = time.monotonic()
        asked = {"generation_id": generation.id, "limit": _ITEMS_PER_STEP}
        while (await self._briefly(lambda: self._database.fetch(_SQL["clear"], asked)))[0][
            0
        ] == _ITEMS_PER_STEP:
            pass
        await asyncio.sleep(max(0.0, retired_at + _FAREWELL_SECONDS - time.monotonic()))
        await self._briefly(lambda: self._database.fetch(_SQL["drop"], {"generation_id": generation.id}))

    async def _remove_unused_chunks(self) -> None:
        after: int | None = 0
        while after is not None:
            asked = {"pipeline_id": self._pipeline.id, "after": after, "limit": _CHUNKS_PER_STEP}
            rows = await self._briefly(lambda: self._database.fetch(_SQL["remove_unused_chunks"], asked))  # noqa: B023
            after = rows[0][0]

    async def _briefly(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do what needs a lock that is asked for briefly, again and again while others have it."""
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            try:
                return await act()
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                if time.monotonic() > deadline:
                    raise DatabaseError(
                        f"others have kept the tables of pipeline {self._pipeline.name!r} locked for "
                        f"{_LONGEST_WAIT_SECONDS:.0f} s: try again when long transactions have ended"
                    ) from error
            except psycopg.Error as error:
                if error.sqlstate == "EM409":
                    hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
                    raise ConflictError(f"{error.diag.message_primary}{hint}") from error
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


def _is_upcoming(state: GenerationState) -> bool:
    """It is built, or being built, and was never live."""
    return state.stage in (Stage.BUILDING, Stage.STOPPED, Stage.BUILT)


def _is_same(state: GenerationState, wanted: NextGeneration) -> bool:
    return (state.spec, state.storage, state.chunk_plan) == (wanted.spec, wanted.storage, wanted.chunk_plan)


def _check_budget(spec: ProviderSpec, price: Decimal | None) -> None:
    if price is None:
        raise ConfigurationError(
            f"a budget needs a price, and that of {spec.model} is not known: say --price-per-million-tokens"
        )
