"""The OpenAI-compatible provider against the stand-in, in the ways servers differ."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from embedmill.adapters.providers import build_provider
from embedmill.ports import EmbeddingProvider, ProviderSpec
from tests.conformance.provider_conformance import ProviderConformance
from tests.support.provider import RunningProvider, start_provider

# name: (options of the server, fields of the spec, what follows the server's root in the base URL)
SERVERS: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "base64": ({}, {}, "/v1"),
    "floats whatever is asked": ({"base64": "ignore"}, {}, "/v1"),
    "refuses encoding_format": ({"base64": "reject"}, {}, "/v1"),
    "refuses encoding_format vaguely": ({"base64": "reject_vaguely"}, {}, "/v1"),
    "azure": ({"dialect": "azure", "api_key": "k-1"}, {}, "/openai/deployments/m?api-version=2024-10-21"),
    "azure, the deployment not said": ({"dialect": "azure", "api_key": "k-1"}, {}, "?api-version=2024-10-21"),
    "azure, v1": ({"dialect": "azure", "api_key": "k-1"}, {}, "/openai/v1?api-version=preview"),
    "tei": (
        {"dialect": "tei", "base64": "ignore", "max_inputs_per_call": 32},
        {"max_inputs_per_call": 32},
        "",
    ),
    "ollama": ({"dialect": "ollama"}, {}, "/v1"),
    "shortened": ({}, {"model": "text-embedding-3-small", "dimensions": 256}, "/v1"),
    "index 0 left out": ({"omit_index_zero": True}, {}, "/v1/"),
    "with prefixes": ({}, {"query_prefix": "query: ", "document_prefix": "passage: "}, "/v1"),
}


@pytest.fixture(scope="module")
def stand_in() -> Iterator[RunningProvider]:
    with start_provider() as running:
        yield running


@pytest.fixture(params=list(SERVERS))
async def provider(
    stand_in: RunningProvider, request: pytest.FixtureRequest
) -> AsyncIterator[EmbeddingProvider]:
    options, fields, path = SERVERS[request.param]
    stand_in.reset(**options)
    spec = {"provider": "openai", "model": "m", "dimensions": 1536, "max_tokens_per_input": 8192, **fields}
    spec["base_url"] = stand_in.base_url.removesuffix("/v1") + path
    built = build_provider(
        ProviderSpec(**spec),  # type: ignore[arg-type]
        api_key="k-1",
        models_dir=None,
        threads=None,
    )
    yield built
    await built.aclose()


class TestOpenAIProvider(ProviderConformance):
    pass
