"""The app on a fresh database, and a pipeline whose provider is never called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.work import app_on, stand_in_pipeline


@pytest_asyncio.fixture
async def app(database: str, tmp_path: Path) -> AsyncIterator[App]:
    async with app_on(database, tmp_path) as app:
        yield app


@pytest_asyncio.fixture
async def pipeline(app: App) -> Pipeline:
    """No provider is called here: vectors are made by hand."""
    return await stand_in_pipeline(app, "http://127.0.0.1:9/v1", dimensions=16)
