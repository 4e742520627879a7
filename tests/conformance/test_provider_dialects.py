"""What Azure OpenAI, Ollama and Text Embeddings Inference refuse is understood as what it is: an input, a limit, an
outage, a key, a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from embedmill.adapters.providers import build_provider
from embedmill.errors import (
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from embedmill.ports import EmbeddingProvider, ProviderSpec, Purpose
from tests.support.provider import RunningProvider, start_provider

PATHS = {"azure": "/openai/deployments/m?api-version=2024-10-21", "tei": "/v1", "ollama": "/v1"}


@pytest.fixture(scope="module")
def stand_in() -> Iterator[RunningProvider]:
    with start_provider() as running:
        yield running


@pytest.fixture(params=list(PATHS))
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def provider_of(
    stand_in: RunningProvider, dialect: str, **options: object
) -> AsyncIterator[EmbeddingProvider]:
    stand_in.reset(dialect=dialect, dimensions=8, **options)
    built = build_provider(
        ProviderSpec(
            provider="openai",
            model="m",
            dimensions=8,
            max_tokens_per_input=8192,
            base_url=stand_in.base_url.removesuffix("/v1") + PATHS[dialect],
        ),
        api_key="k-1",
        models_dir=None,
        threads=None,
    )
    yield built
    await built.aclose()


async def test_an_input_that_is_refused_is_told_from_a_refused_caller(
    stand_in: RunningProvider, dialect: str
) -> None:
    async with provider_of(stand_in, dialect, poison="poison") as provider:
        with pytest.raises(InputRejectedError):
            await provider.embed(["some poison"], Purpose.DOCUMENT)


async def test_too_many_or_too_long_inputs_are_refused_inputs_that_can_be_halved(
    stand_in: RunningProvider, dialect: str
) -> None:
    async with provider_of(stand_in, dialect, max_inputs_per_call=2) as provider:
        with pytest.raises(InputRejectedError):
            await provider.embed(["one", "two", "three"], Purpose.DOCUMENT)
    async with provider_of(stand_in, dialect, max_tokens_per_input=3) as provider:
        with pytest.raises(InputRejectedError):
            await provider.embed(["one two three four five six seven"], Purpose.DOCUMENT)


async def test_a_limit_is_waited_out(stand_in: RunningProvider, dialect: str) -> None:
    async with provider_of(stand_in, dialect, faults=["429"], retry_after_seconds=7.0) as provider:
        with pytest.raises(RateLimitedError) as caught:
            await provider.embed(["one"], Purpose.DOCUMENT)
    assert caught.value.retry_after_seconds == (7.0 if dialect == "azure" else None)


async def test_what_broke_inside_the_server_is_an_outage_and_no_refusal(
    stand_in: RunningProvider, dialect: str
) -> None:
    async with provider_of(stand_in, dialect, faults=["500"]) as provider:
        with pytest.raises(
            ProviderUnavailableError, match="answered 424" if dialect == "tei" else "answered 500"
        ):
            await provider.embed(["one"], Purpose.DOCUMENT)


async def test_a_model_that_is_not_there_is_told_by_name(stand_in: RunningProvider, dialect: str) -> None:
    async with provider_of(stand_in, dialect, model="another") as provider:
        with pytest.raises(ProviderRefusedError, match="there is no model m at this address"):
            await provider.embed(["one"], Purpose.DOCUMENT)


async def test_azure_takes_the_key_in_its_own_header_only(stand_in: RunningProvider) -> None:
    async with provider_of(stand_in, "azure") as provider:
        stand_in.configure(api_key="k-1")
        await provider.embed(["one"], Purpose.DOCUMENT)
        assert stand_in.requests()[-1].headers["api-key"] == "k-1"
        assert "authorization" not in stand_in.requests()[-1].headers
        stand_in.configure(api_key="k-2")
        with pytest.raises(ProviderRefusedError, match="check the key"):
            await provider.embed(["one"], Purpose.DOCUMENT)
