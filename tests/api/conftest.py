"""A service on a fresh database for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from embedmill.database.pipelines import Pipeline
from embedmill.logs import configure_logs
from embedmill.settings import Settings
from tests.support.provider import RunningProvider, start_provider
from tests.support.serving import Serving, serving
from tests.support.work import stand_in_pipeline

DIMENSIONS = 16


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """As the command sets them up: unconfigured, structlog paints each error with all local variables, for minutes."""
    configure_logs(Settings())


@pytest.fixture(scope="session")
def provider_process() -> Iterator[RunningProvider]:
    with start_provider(dimensions=DIMENSIONS) as provider:
        yield provider


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    """With its default options and counts of nothing."""
    provider_process.reset(dimensions=DIMENSIONS)
    return provider_process


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(database, tmp_path) as one:
        yield one


@pytest.fixture
async def idle_service(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """A service without workers."""
    async with serving(database, tmp_path, works=False) as one:
        yield one


@pytest.fixture
async def pipeline(service: Serving, provider: RunningProvider) -> Pipeline:
    """`standin`, on the counting provider, at a dollar for a million tokens."""
    return await stand_in_pipeline(
        service.app, provider.base_url, dimensions=DIMENSIONS, price_per_million_tokens=1
    )
