"""A database, the app on it, a stand-in provider, and an environment in which child processes find both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.provider import RunningProvider, start_provider
from tests.support.work import app_on, stand_in_pipeline

DIMENSIONS = 8


@pytest.fixture(scope="session")
def provider_process() -> Iterator[RunningProvider]:
    with start_provider(dimensions=DIMENSIONS) as provider:
        yield provider


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    """With its default options and counts of nothing."""
    provider_process.reset(dimensions=DIMENSIONS)
    return provider_process


@pytest_asyncio.fixture
async def app(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Workers that are started beside it make one call at a time."""
    monkeypatch.setenv("EMBEDMILL_DATABASE_URL", database)
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EMBEDMILL_CALLS_IN_FLIGHT", "1")
    async with app_on(database, tmp_path) as app:
        yield app


@pytest_asyncio.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    """On the stand-in; two inputs a call."""
    return await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=2)
