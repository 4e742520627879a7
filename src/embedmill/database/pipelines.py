"""The catalogue of pipelines and their generations. Owns their rows and what is checked before one is made;
must not know how text is cut or embedded."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import psycopg

from embedmill.core.documents import ChunkPlan
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.ports import ProviderSpec

_SQL = load_queries("embedmill.database", "pipelines.sql")
_LARGEST_INDEXED = {"vector": 2000, "halfvec": 4000}  # pgvector's HNSW


class Generation(msgspec.Struct, frozen=True):
    """One build of a pipeline's vectors; they stand in embedmill.vectors_<id>."""

    id: int
    number: int
    spec: ProviderSpec
    recipe_hash: str
    dimensions: int
    storage: str
    chunk_set: int = 1
    """Which of the pipeline's chunks it embeds: generations of one plan share them."""


class Pipeline(msgspec.Struct, frozen=True):
    """A named recipe from content to vectors, with one of its generations (the live one, as a rule). The plan of
    chunks and the price are that generation's."""

    id: int
    tenant_id: int
    name: str
    view_name: str
    chunk_plan: ChunkPlan
    text_search_config: str
    price_per_million_tokens: Decimal | None
    quota_key: str
    calls_per_minute: int | None
    tokens_per_minute: int | None
    generation: Generation
    tenant_weight: float = 1.0
    paused_at: datetime | None = None
    uses_default_quota: bool = False


class NewPipeline(msgspec.Struct, frozen=True):
    """What a person says of a pipeline that is to be made. Prices in US dollars for a million tokens. Pipelines
    of one `quota_key` share its limits; `uses_default_quota`: where none is given, the configuration's hold."""

    name: str
    spec: ProviderSpec
    storage: str
    chunk_plan: ChunkPlan
    text_search_config: str = "english"
    price_per_million_tokens: Decimal | None = None
    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    quota_key: str | None = None
    uses_default_quota: bool = False


async def tenant_id(database: Database, slug: str) -> int:
    """The number of a tenant; NotFoundError where there is none of that name."""
    row = await database.fetch_one(_SQL["tenant_id"], {"slug": slug})
    if row is None:
        raise NotFoundError(f"there is no tenant {slug!r}")
    return int(row[0])


async def list_pipelines(database: Database, tenant: int) -> list[Pipeline]:
    return await _select(database, tenant=tenant)


async def find_pipeline(database: Database, tenant: int, name: str) -> Pipeline:
    """The pipeline of that name; NotFoundError names those that exist."""
    found = await _select(database, tenant=tenant, name=name)
    if not found:
        names = ", ".join(pipeline.name for pipeline in await list_pipelines(database, tenant))
        others = f"there are: {names}" if names else "this tenant has none yet"
        raise NotFoundError(f"there is no pipeline {name!r}; {others}. `embedmill pipeline create` makes one")
    return found[0]


async def pipeline_by_id(database: Database, pipeline_id: int) -> Pipeline:
    """A pipeline with its current generation; NotFoundError where it is gone (or another tenant's)."""
    found = await _select(database, pipeline_id=pipeline_id)
    if not found:
        raise NotFoundError(f"there is no pipeline {pipeline_id}")
    return found[0]


async def pipeline_of_generation(database: Database, generation_id: int) -> Pipeline:
    """The pipeline that a generation belongs to, with that generation as its `generation`."""
    found = await _select(database, generation_id=generation_id)
    if not found:
        raise NotFoundError(f"there is no generation {generation_id}")
    return found[0]


def check_storage(storage: str, dimensions: int) -> None:
    """Raises ConfigurationError where pgvector could not index such vectors."""
    largest = _LARGEST_INDEXED.get(storage)
    if largest is None:
        raise ConfigurationError(f"--storage is vector or halfvec, not {storage!r}")
    if dimensions > largest:
        advice = " or use --storage halfvec (up to 4000)" if storage == "vector" else ""
        raise ConfigurationError(
            f"pgvector indexes at most {largest} dimensions of {storage}: "
            f"ask the model for fewer --dimensions than {dimensions}{advice}"
        )


def check_plan(plan: ChunkPlan) -> None:
    """Raises ConfigurationError for a plan of chunks that no pipeline can have."""
    if not (8 <= plan.max_tokens <= 100_000 and 0 <= plan.overlap_tokens <= plan.max_tokens // 2):
        raise ConfigurationError("--chunk-tokens must be 8 to 100000 and --chunk-overlap at most half of it")


async def create_pipeline(database: Database, tenant: int, new: NewPipeline) -> Pipeline:
    """Make a pipeline. Raises ConfigurationError where pgvector could not index it or its name is taken."""
    check_storage(new.storage, new.spec.dimensions)
    try:
        await database.fetch(
            _SQL["create_pipeline"],
            {
                "tenant_id": tenant,
                "name": new.name,
                "spec": msgspec.json.encode(new.spec).decode(),
                "dimensions": new.spec.dimensions,
                "storage": new.storage,
                "chunk_tokens": new.chunk_plan.max_tokens,
                "chunk_overlap": new.chunk_plan.overlap_tokens,
                "text_search_config": new.text_search_config,
                "price": new.price_per_million_tokens,
                "calls_per_minute": new.calls_per_minute,
                "tokens_per_minute": new.tokens_per_minute,
                "quota_key": new.quota_key,
                "uses_default_quota": new.uses_default_quota,
            },
        )
    except psycopg.errors.UniqueViolation as error:
        raise ConfigurationError(
            f"a pipeline {new.name!r} (or one whose name differs only in - and _) exists already: "
            "choose another name"
        ) from error
    except psycopg.errors.CheckViolation as error:
        raise ConfigurationError(_explain_check(error, new)) from error
    except psycopg.errors.UndefinedObject as error:
        raise ConfigurationError(
            f"PostgreSQL has no text search configuration {new.text_search_config!r}: "
            "`\\dF` in psql lists them; 'simple' suits any language"
        ) from error
    return await find_pipeline(database, tenant, new.name)


def _explain_check(error: psycopg.Error, new: NewPipeline) -> str:
    constraint = error.diag.constraint_name or ""
    if "name" in constraint:
        return (
            f"{new.name!r} cannot name a pipeline: small letters, digits, - and _, "
            "a letter first, 40 characters at most"
        )
    if "chunk" in constraint:
        return "--chunk-tokens must be 8 to 100000 and --chunk-overlap at most half of it"
    return f"the pipeline cannot be made: {error.diag.message_primary}"


async def _select(
    database: Database,
    *,
    tenant: int | None = None,
    name: str | None = None,
    generation_id: int | None = None,
    pipeline_id: int | None = None,
) -> list[Pipeline]:
    rows = await database.fetch(
        _SQL["select_pipelines"],
        {"tenant_id": tenant, "name": name, "generation_id": generation_id, "pipeline_id": pipeline_id},
    )
    return [_pipeline(row) for row in rows]


def _pipeline(row: tuple[Any, ...]) -> Pipeline:
    spec = msgspec.json.decode(row[13], type=ProviderSpec)
    return Pipeline(
        id=row[0],
        tenant_id=row[1],
        name=row[2],
        view_name=row[3],
        chunk_plan=ChunkPlan(max_tokens=row[4], overlap_tokens=row[5]),
        text_search_config=row[6],
        price_per_million_tokens=row[7],
        quota_key=row[8],
        calls_per_minute=row[9],
        tokens_per_minute=row[10],
        generation=Generation(
            id=row[11],
            number=row[12],
            spec=spec,
            recipe_hash=row[14],
            dimensions=row[15],
            storage=row[16],
            chunk_set=row[20],
        ),
        tenant_weight=row[17],
        paused_at=row[18],
        uses_default_quota=row[19],
    )
