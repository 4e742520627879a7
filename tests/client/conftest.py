"""Clients of the service; the blocking one runs in a thread beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from embedmill import AsyncClient, Client
from embedmill.database.pipelines import Pipeline
from tests.support.provider import RunningProvider
from tests.support.serving import Serving
from tests.support.work import DIMENSIONS, stand_in_pipeline


@pytest.fixture
async def pipeline(service: Serving, provider: RunningProvider) -> Pipeline:
    """`standin`, on the counting provider, ten chunks a call, at a dollar for a million tokens."""
    return await stand_in_pipeline(
        service.app,
        provider.base_url,
        dimensions=DIMENSIONS,
        max_inputs_per_call=10,
        timeout_seconds=2.0,
        price_per_million_tokens=1,
    )


@pytest.fixture
def blocking(service: Serving) -> Iterator[Client]:
    with Client(service.address) as client:
        yield client


@pytest.fixture
async def client(service: Serving) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address) as one:
        yield one
