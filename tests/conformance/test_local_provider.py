"""The local provider with the bundled model."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from embedmill.adapters.providers import build_provider
from embedmill.ports import EmbeddingProvider, ProviderSpec
from tests.conformance.provider_conformance import ProviderConformance


@pytest.fixture
async def provider() -> AsyncIterator[EmbeddingProvider]:
    spec = ProviderSpec(provider="local", model="all-MiniLM-L6-v2", dimensions=384)
    built = build_provider(spec, api_key=None, models_dir=None, threads=1)
    yield built
    await built.aclose()


class TestLocalProvider(ProviderConformance):
    tolerance = 2e-6
