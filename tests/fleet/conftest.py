"""The app in an environment in which child processes find its database, and a pipeline with many calls to make."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.provider import RunningProvider
from tests.support.work import DIMENSIONS, app_on, stand_in_pipeline


@pytest.fixture
async def app(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Workers that are started beside it make one call at a time."""
    monkeypatch.setenv("EMBEDMILL_DATABASE_URL", database)
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EMBEDMILL_CALLS_IN_FLIGHT", "1")
    async with app_on(database, tmp_path) as app:
        yield app


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    """On the stand-in; two inputs a call."""
    return await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=2)
