"""/api/v1/pipelines: which recipes there are. Owns the wire's shape; they are made by `embedmill pipeline create`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from embedmill.api.problems import describe
from embedmill.api.service import Reader
from embedmill.api.wire import Wire
from embedmill.database.pipelines import Pipeline, find_pipeline, list_pipelines

router = APIRouter(prefix="/pipelines", tags=["pipelines"])


class PipelineOut(Wire):
    """A recipe from content to vectors. A limit or price of null: none, or unknown."""

    name: str
    provider: str
    model: str
    dimensions: int
    storage: str
    chunk_tokens: int
    chunk_overlap: int
    price_per_million_tokens_usd: float | None
    quota_key: str
    calls_per_minute: int | None
    tokens_per_minute: int | None
    is_paused: bool
    view: str

    @classmethod
    def of(cls, pipeline: Pipeline) -> PipelineOut:
        price = pipeline.price_per_million_tokens
        return cls(
            name=pipeline.name,
            provider=pipeline.generation.spec.provider,
            model=pipeline.generation.spec.model,
            dimensions=pipeline.generation.dimensions,
            storage=pipeline.generation.storage,
            chunk_tokens=pipeline.chunk_plan.max_tokens,
            chunk_overlap=pipeline.chunk_plan.overlap_tokens,
            price_per_million_tokens_usd=None if price is None else float(price),
            quota_key=pipeline.quota_key,
            calls_per_minute=pipeline.calls_per_minute,
            tokens_per_minute=pipeline.tokens_per_minute,
            is_paused=pipeline.paused_at is not None,
            view=f"embedmill.{pipeline.view_name}",
        )


class PipelineList(Wire):
    pipelines: list[PipelineOut]


@router.get("", responses=describe(401, 403, 429))
async def get_pipelines(caller: Reader) -> PipelineList:
    """All pipelines of the tenant."""
    found = await list_pipelines(caller.database, caller.tenant_id)
    return PipelineList(pipelines=[PipelineOut.of(pipeline) for pipeline in found])


@router.get("/{name}", responses=describe(401, 403, 404, 422, 429))
async def get_pipeline(name: Annotated[str, Path(max_length=100)], caller: Reader) -> PipelineOut:
    """One pipeline."""
    return PipelineOut.of(await find_pipeline(caller.database, caller.tenant_id, name))
