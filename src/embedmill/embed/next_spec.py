"""What the next generation of a pipeline is to be, from the live one and what a person changes. Pure; owns what of one
model also holds for another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from embedmill.core.documents import ChunkPlan
from embedmill.ports import ProviderSpec


class Changes(msgspec.Struct, frozen=True):
    """What a person asks for; None: as it is. `given` are further fields of the spec."""

    model: str | None = None
    provider: str | None = None
    dimensions: int | None = None
    storage: str | None = None
    chunk_tokens: int | None = None
    chunk_overlap: int | None = None
    given: Mapping[str, Any] = {}


def next_spec(live: ProviderSpec, changes: Changes) -> tuple[ProviderSpec, frozenset[str]]:
    """The spec, and which of its fields were said: the others are the model's own defaults.

    The same model keeps all that is not changed. Another one is asked on the same server, by the same key, as long as
    the provider is the same; prefixes, parameters and limits are the new model's.
    """
    given = dict(changes.given)
    provider = changes.provider or live.provider
    if (provider, changes.model or live.model) == (live.provider, live.model):
        if changes.dimensions is not None:
            given["dimensions"] = changes.dimensions
        return msgspec.structs.replace(live, **given), frozenset(msgspec.structs.asdict(live))
    if provider == live.provider:
        given = {"base_url": live.base_url, "api_key_env": live.api_key_env, **given}
    spec = ProviderSpec(
        provider=provider,
        model=changes.model or live.model,
        dimensions=changes.dimensions or 0,
        timeout_seconds=live.timeout_seconds,
        **given,
    )
    return spec, frozenset(given)


def next_plan(live: ChunkPlan, changes: Changes) -> ChunkPlan:
    """The plan of chunks; an overlap that is not said shrinks where it would be more than half of a chunk."""
    tokens = live.max_tokens if changes.chunk_tokens is None else changes.chunk_tokens
    overlap = (
        min(live.overlap_tokens, tokens // 2) if changes.chunk_overlap is None else changes.chunk_overlap
    )
    return ChunkPlan(tokens, overlap)
