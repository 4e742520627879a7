"""What is done on a pipeline's page of generations: estimate, start, go on, compare, switch, roll back, cancel, prune.
Owns the forms; each act is the function that the command line calls too.

A tenant's admin changes the model on the server that is there; another provider, server, key or price is an operator's
to say: an address decides where the host's keys are sent, a price what budgets count."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.app import App
from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.migration_estimate import estimate_migration
from embedmill.dashboard.migrations import (
    Generations,
    column_tables,
    find_own_pipeline,
    read_generations,
    show_migration,
)
from embedmill.dashboard.pages import redirect
from embedmill.dashboard.source_words import without_options
from embedmill.dashboard.visitors import Admin, Visitor
from embedmill.database.pipelines import Pipeline, check_plan, check_storage
from embedmill.embed.comparison import compare_generations
from embedmill.embed.generation_states import GenerationState
from embedmill.embed.migrating import Migrations, NextGeneration
from embedmill.embed.next_spec import Changes
from embedmill.errors import ConflictError, EmbedmillError

router = APIRouter(prefix="/sources/pipelines/{name}/migration")
_MOST_DIMENSIONS = 16_000
_MOST_TOKENS = 100_000
_MOST_USD = Decimal(10**9)
_SAMPLES = 100
# Which field a refusal is about, by words that only it has; in this order.
_FIELDS = (
    ("model", ("is that already",)),
    ("dimensions", ("--dimensions", "dimensions")),
    ("chunk_tokens", ("--chunk-tokens", "chunk", "overlap")),
    ("budget_usd", ("budget",)),
    ("storage", ("storage", "halfvec")),
    ("model", ("--model", "model")),
)
_OPERATORS_FIELDS = ("provider", "base_url", "api_key_env", "price")


@router.post("")
async def start(request: Request, visitor: Admin, name: str) -> Response:
    """Begin the build of the next generation, or tell what that would take."""
    pipeline = await find_own_pipeline(visitor, name)
    form = await FormReading.of(request)
    try:
        wanted = await _wanted(visitor, pipeline, form)
        if wanted is None:
            return await show_migration(request, visitor, name, form, status=422)
        if form.value("act") != "start":
            estimate = await estimate_migration(visitor, _app(visitor), pipeline, wanted)
            return await show_migration(request, visitor, name, form, estimate=estimate)
        await _migrations(visitor, pipeline).start(wanted, await _columns(visitor, pipeline, form))
    except EmbedmillError as error:
        _refuse(form, error)
        return await show_migration(request, visitor, name, form, status=422)
    return redirect(
        _address(name), "The build has begun: workers carry it out, searches and changes go on meanwhile."
    )


async def _wanted(visitor: Visitor, pipeline: Pipeline, form: FormReading) -> NextGeneration | None:
    """What the form says the pipeline is to become; None where a field cannot be."""
    changes, price, budget_usd = _changes(visitor, form)
    if form.errors:
        return None
    if changes == Changes():
        form.refuse(
            "model", "say what is to be otherwise: the model, its dimensions, the storage or the chunks"
        )
        return None
    app = _app(visitor)
    # It asks no database, but may fetch or read a model's files: not on the loop that answers everybody.
    wanted = await asyncio.to_thread(
        lambda: asyncio.run(
            app.next_generation(pipeline, changes, price_per_million_tokens=price, budget_usd=budget_usd)
        )
    )
    check_storage(wanted.storage, wanted.spec.dimensions)
    check_plan(wanted.chunk_plan)
    return wanted


def _changes(visitor: Visitor, form: FormReading) -> tuple[Changes, Decimal | None, Decimal | None]:
    """(changes, price, budget)."""
    given: dict[str, Any] = {}
    if visitor.is_operator:
        given = {key: value for key in ("base_url", "api_key_env") if (value := form.text(key)) is not None}
    else:
        for key in _OPERATORS_FIELDS:
            if form.text(key) is not None:
                form.refuse("", f"only whoever runs embedmill (role operator) says {key}")
        if (form.text("model") or "").startswith(("/", ".", "~")):
            form.refuse(
                "model", "a folder of this machine is for whoever runs embedmill (role operator) to name"
            )
    storage = form.choice("storage", ("", "vector", "halfvec"))
    changes = Changes(
        model=form.text("model"),
        provider=form.choice("provider", ("", "openai", "local")) or None if visitor.is_operator else None,
        dimensions=form.whole("dimensions", least=1, most=_MOST_DIMENSIONS),
        storage=storage or None,
        chunk_tokens=form.whole("chunk_tokens", least=8, most=_MOST_TOKENS),
        chunk_overlap=form.whole("chunk_overlap", least=0, most=_MOST_TOKENS),
        given=given,
    )
    price = form.decimal("price", most=_MOST_USD) if visitor.is_operator else None
    return changes, price, form.decimal("budget_usd", most=_MOST_USD, above=True)


async def _columns(visitor: Visitor, pipeline: Pipeline, form: FormReading) -> dict[str, str]:
    """For each table whose vectors stand in a column of it, the column that is for the next ones."""
    tables = await column_tables(visitor, pipeline)
    return {each.name: said for each in tables if (said := form.text(f"column-{each.id}")) is not None}


@router.post("/go-on")
async def go_on(request: Request, visitor: Admin, name: str) -> Response:
    """A build that was stopped goes on, with another budget if one is said."""
    pipeline = await find_own_pipeline(visitor, name)
    form = await FormReading.of(request)
    budget_usd = form.decimal("more_budget_usd", most=_MOST_USD, above=True)
    if form.errors:
        return await show_migration(request, visitor, name, form, status=422)
    try:
        upcoming = (await read_generations(visitor, pipeline)).next_one
        if upcoming is None:
            raise ConflictError("nothing is being built any more")
        await _migrations(visitor, pipeline).go_on(upcoming, budget_usd)
    except EmbedmillError as error:
        form.refuse("more_budget_usd", without_options(str(error)))
        return await show_migration(request, visitor, name, form, status=422)
    return redirect(_address(name), "The build goes on.")


@router.post("/compare")
async def compare(visitor: Admin, name: str) -> Response:
    """How far the next generation, or the one before, finds what the live one does; asks no provider."""

    async def act(pipeline: Pipeline, migrations: Migrations) -> str:
        found = await read_generations(visitor, pipeline)
        newer, older = _compared(found)
        comparison = await compare_generations(
            visitor.service.operator,
            newer,
            older,
            samples=_SAMPLES,
            chance=random.Random(),  # noqa: S311 - which chunks are asked for is no secret
        )
        if comparison is None:
            raise ConflictError("there is nothing to compare yet: no text has a vector in both generations")
        return f"Compared by {comparison.samples} samples."

    return await _do(visitor, name, act)


def _compared(found: Generations) -> tuple[GenerationState, GenerationState]:
    """(the one that is measured, the one that it is measured by)."""
    if found.next_one is not None:
        return found.next_one, found.live
    if found.before is not None:
        return found.live, found.before
    raise ConflictError("there is only one generation: nothing to compare it with")


@router.post("/switch")
async def switch(request: Request, visitor: Admin, name: str) -> Response:
    form = await FormReading.of(request)
    number = form.whole("number", least=1, most=2**31 - 1)

    async def act(pipeline: Pipeline, migrations: Migrations) -> str:
        live = await migrations.switch(to=number, force=form.has("force", "1"))
        await _count_chunks(migrations)
        return f"Generation {live.number} ({live.spec.model}) is live; the one before is kept current."

    return await _do(visitor, name, act)


@router.post("/rollback")
async def roll_back(visitor: Admin, name: str) -> Response:
    async def act(pipeline: Pipeline, migrations: Migrations) -> str:
        live = await migrations.roll_back()
        await _count_chunks(migrations)
        return f"Back to generation {live.number} ({live.spec.model})."

    return await _do(visitor, name, act)


@router.post("/cancel")
async def cancel(visitor: Admin, name: str) -> Response:
    async def act(pipeline: Pipeline, migrations: Migrations) -> str:
        dropped = await migrations.cancel()
        return f"Generation {dropped.number} is dropped with its {dropped.embedded:,} vectors."

    return await _do(visitor, name, act)


@router.post("/prune")
async def prune(visitor: Admin, name: str) -> Response:
    async def act(pipeline: Pipeline, migrations: Migrations) -> str:
        dropped = await migrations.prune()
        if not dropped:
            return "There is only the live generation."
        numbers = ", ".join(str(each.number) for each in dropped)
        return f"Dropped: generation {numbers}. Only the live one is kept current, and paid for."

    return await _do(visitor, name, act)


async def _do(visitor: Visitor, name: str, act: Callable[[Pipeline, Migrations], Awaitable[str]]) -> Response:
    """An act of one button: what came of it, or why not, is shown on the page."""
    pipeline = await find_own_pipeline(visitor, name)
    try:
        said = await act(pipeline, _migrations(visitor, pipeline))
    except EmbedmillError as error:
        return redirect(_address(name), without_options(str(error)), is_error=True)
    return redirect(_address(name), said)


async def _count_chunks(migrations: Migrations) -> None:
    """After a switch between plans, what documents say of their chunks."""
    if len({each.chunk_set for each in await migrations.states()}) > 1:
        await migrations.count_chunks_again()


def _refuse(form: FormReading, error: EmbedmillError) -> None:
    message = str(error)
    field = "" if isinstance(error, ConflictError) or "--column" in message else None
    if field is None:
        field = next((name for name, words in _FIELDS if any(word in message for word in words)), "")
    form.refuse(field, without_options(message))


def _app(visitor: Visitor) -> App:
    # Tables of vectors are made, and columns of users' tables filled, by their owner.
    return App(visitor.service.settings, visitor.service.operator)


def _migrations(visitor: Visitor, pipeline: Pipeline) -> Migrations:
    return Migrations(visitor.service.operator, pipeline, actor=visitor.actor)


def _address(name: str) -> str:
    return f"/sources/pipelines/{name}/migration"
