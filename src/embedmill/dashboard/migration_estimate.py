"""What a change of a pipeline's model or chunks would take: texts, tokens, money, time, and whether the provider
answers. Owns the reckoning; begins nothing, and pays for one call of two words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal

import msgspec

from embedmill.app import App
from embedmill.dashboard.audit_estimate import tokens_of_a_chunk
from embedmill.dashboard.visitors import Visitor
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generation_states import list_generations
from embedmill.embed.migrating import NextGeneration
from embedmill.errors import ProviderError
from embedmill.ports import ProviderSpec, Purpose

_MILLION = 1_000_000
_SCALAR_BYTES: Mapping[str, int] = {"vector": 4, "halfvec": 2}


class MigrationEstimate(msgspec.Struct, frozen=True):
    """`chunks` and `tokens` are about; `cost_usd` None: the price is unknown. `least_seconds`: by the quota of the
    pipeline, None where it has none. `vector_bytes` without the index. `is_same_model`: vectors of texts that stay the
    same are copied. `refusal`: what the provider said to one short text."""

    wanted: NextGeneration
    chunks: int
    tokens: int
    cost_usd: Decimal | None
    least_seconds: float | None
    vector_bytes: int
    is_same_model: bool
    refusal: str | None


async def estimate_migration(
    visitor: Visitor, app: App, pipeline: Pipeline, wanted: NextGeneration
) -> MigrationEstimate:
    """Of one pipeline, from its counters."""
    live = next(each for each in await list_generations(visitor.database, pipeline.id) if each.is_live)
    per_chunk = await tokens_of_a_chunk(visitor.database, pipeline)
    tokens = round(live.chunks * per_chunk)
    chunks = live.chunks
    if wanted.chunk_plan != pipeline.chunk_plan:
        # As full as they are now, of longer or shorter ones; what overlaps is read twice.
        tokens = round(tokens * _overlapping(wanted.chunk_plan.max_tokens, wanted.chunk_plan.overlap_tokens)
                       / _overlapping(pipeline.chunk_plan.max_tokens, pipeline.chunk_plan.overlap_tokens))  # fmt: skip
        fill = per_chunk / pipeline.chunk_plan.max_tokens
        chunks = max(round(tokens / max(fill * wanted.chunk_plan.max_tokens, 1.0)), 1 if live.chunks else 0)
    price = wanted.price_per_million_tokens
    limit = pipeline.tokens_per_minute
    # A local model is loaded for it: not on the loop that answers everybody.
    refusal = await asyncio.to_thread(lambda: asyncio.run(_try(app, wanted.spec)))
    return MigrationEstimate(
        wanted=wanted,
        chunks=chunks,
        tokens=tokens,
        cost_usd=None if price is None else Decimal(tokens) * price / _MILLION,
        least_seconds=tokens / limit * 60 if limit else None,
        vector_bytes=chunks * wanted.spec.dimensions * _SCALAR_BYTES.get(wanted.storage, 4),
        is_same_model=(wanted.spec.provider, wanted.spec.model, wanted.spec.dimensions)
        == (live.spec.provider, live.spec.model, live.spec.dimensions),
        refusal=refusal,
    )


def _overlapping(tokens: int, overlap: int) -> float:
    """How many tokens are embedded for each token of text."""
    return tokens / max(tokens - overlap, 1)


async def _try(app: App, spec: ProviderSpec) -> str | None:
    """Why the provider does not embed one short text; None: it does."""
    provider = app.provider(spec)
    try:
        await provider.embed(["embedmill migration"], Purpose.DOCUMENT)
    except ProviderError as error:
        return str(error)
    finally:
        await provider.aclose()
    return None
