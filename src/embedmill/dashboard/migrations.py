"""The pages on which a pipeline's model, dimensions or chunks are changed: the generations and how they stand. Owns
what is shown; what is done there stands in migration_acts.py, and what may be done when in embed/migrating.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.migration_estimate import MigrationEstimate
from embedmill.dashboard.pages import show
from embedmill.dashboard.visitors import Reader, Visitor
from embedmill.database.pipelines import Pipeline, find_pipeline, list_pipelines
from embedmill.database.queries import load_queries
from embedmill.embed.generation_states import GenerationState, Stage, list_generations
from embedmill.errors import NotFoundError
from embedmill.queue import standing
from embedmill.queue.sharing import list_quotas
from embedmill.sources.tables import TableSource, list_tables

_SQL = load_queries("embedmill.dashboard", "sources.sql")
router = APIRouter(prefix="/sources")
_UPCOMING = (Stage.BUILDING, Stage.STOPPED, Stage.BUILT)
_MINUTES = 5
STAGES: Mapping[Stage, tuple[str, str]] = {
    Stage.LIVE: ("live", "Searches read it."),
    Stage.BUILDING: ("building", "It is built beside the live one; searches and changes go on meanwhile."),
    Stage.STOPPED: ("stopping", "Its build was stopped; what is done is kept."),
    Stage.BUILT: ("ready", "It is complete and kept current, and was never live: compare it, then switch."),
    Stage.KEPT: (
        "idle",
        "It was live before and is kept current, so that one can go back at once; each change is paid for twice.",
    ),
}


class Generations(msgspec.Struct, frozen=True):
    """The generations of one pipeline, newest first. `next_one`: being built, or built and never live; `before`: what a
    rollback goes back to."""

    pipeline: Pipeline
    states: tuple[GenerationState, ...]

    @property
    def address(self) -> str:
        return f"/sources/pipelines/{self.pipeline.name}/migration"

    @property
    def live(self) -> GenerationState:
        return next(each for each in self.states if each.is_live)

    @property
    def next_one(self) -> GenerationState | None:
        return next((each for each in self.states if each.stage in _UPCOMING), None)

    @property
    def before(self) -> GenerationState | None:
        kept = [each for each in self.states if each.stage is Stage.KEPT]
        return max(
            kept,
            key=lambda each: (each.switched_at is not None and each.switched_at.timestamp(), each.id),
            default=None,
        )

    @property
    def others(self) -> list[GenerationState]:
        return [each for each in self.states if not each.is_live]


@router.get("/migrations")
async def migrations_page(request: Request, visitor: Reader) -> Response:
    """All pipelines, and what becomes of each."""

    async def load() -> Mapping[str, Any]:
        pipelines = await list_pipelines(visitor.database, visitor.tenant_id)
        return {"pipelines": [await read_generations(visitor, each) for each in pipelines], "stages": STAGES}

    return await show(request, visitor, "migrations.html", load)


@router.get("/pipelines/{name}/migration")
async def migration_page(request: Request, visitor: Reader, name: str) -> Response:
    return await show_migration(request, visitor, name, FormReading())


async def show_migration(
    request: Request,
    visitor: Visitor,
    name: str,
    form: FormReading,
    *,
    estimate: MigrationEstimate | None = None,
    status: int = 200,
) -> Response:
    """The page of one pipeline, with what was typed, and the estimate of that."""

    async def load() -> Mapping[str, Any]:
        return {**await load_migration(visitor, name), "form": form, "estimate": estimate}

    return await show(request, visitor, "migration.html", load, status=status)


async def load_migration(visitor: Visitor, name: str) -> Mapping[str, Any]:
    """Raises NotFoundError."""
    pipeline = await find_own_pipeline(visitor, name)
    found = await read_generations(visitor, pipeline)
    quotas = await list_quotas(visitor.database, visitor.tenant_id)
    workers = await standing.recent_workers(visitor.service.operator)
    next_one = found.next_one
    pace = await _chunks_per_minute(visitor, next_one) if next_one is not None else 0.0
    return {
        "here": found.address,
        "path": "/sources",
        "found": found,
        "stages": STAGES,
        "pace": pace,
        "eta_seconds": None if next_one is None else eta_seconds(next_one, pace),
        "has_workers": any(worker.is_at_work for worker in workers),
        "held_back": [
            each.cooldown_reason or "the provider asked to wait"
            for each in quotas
            if each.quota_key == pipeline.quota_key and each.cooling_seconds > 0
        ],
        "column_tables": await column_tables(visitor, pipeline),
    }


async def find_own_pipeline(visitor: Visitor, name: str) -> Pipeline:
    """Raises NotFoundError, also for another tenant's, and for what no name can be."""
    if not name.isprintable():
        raise NotFoundError("there is no pipeline of that name")
    return await find_pipeline(visitor.database, visitor.tenant_id, name)


async def read_generations(visitor: Visitor, pipeline: Pipeline) -> Generations:
    states = await list_generations(visitor.database, pipeline.id)
    return Generations(pipeline, tuple(reversed(states)))


async def column_tables(visitor: Visitor, pipeline: Pipeline) -> list[TableSource]:
    """The tables whose vectors stand in a column of them: each needs another column for the next generation."""
    found = await list_tables(visitor.database, visitor.tenant_id, pipeline=pipeline.name)
    return [each for each in found if each.target_column is not None]


def eta_seconds(state: GenerationState, chunks_per_minute: float) -> float | None:
    """Until a build is through, at the pace of late. None: nothing moves."""
    left = max(state.chunks - state.embedded - state.unembeddable, 0)
    if state.stage is not Stage.BUILDING or (not left and not state.uncut):
        return 0.0
    # Chunks of documents that are still to be cut are not counted yet: by how far the walk has come.
    left = max(left, round(state.chunks * (1 / max(state.walked, 0.01) - 1))) if state.walked < 1 else left
    return left / chunks_per_minute * 60 if chunks_per_minute > 0 else None


async def _chunks_per_minute(visitor: Visitor, state: GenerationState) -> float:
    row = await visitor.database.fetch_one(_SQL["pace"], {"generation_id": state.id})
    return row[0] / _MINUTES if row else 0.0
