"""A pipeline whose provider is never called."""

from __future__ import annotations

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.support.work import unanswered_pipeline


@pytest.fixture
async def pipeline(app: App) -> Pipeline:
    return await unanswered_pipeline(app)
