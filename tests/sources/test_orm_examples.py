"""The recipes for SQLAlchemy and Django do what docs/how-to/use-with-an-orm.md says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from tests.sources.test_source_views import add_jobs
from tests.support.provider import RunningProvider

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("example", "scheme"), [("with_sqlalchemy.py", "postgresql+psycopg"), ("with_django.py", "postgresql")]
)
async def test_jobs_like_one_are_found(
    app: App, pipeline: Pipeline, provider: RunningProvider, example: str, scheme: str
) -> None:
    await add_jobs(app, pipeline)
    url = app.database.url.replace("postgresql://", f"{scheme}://", 1)
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(EXAMPLES / example), url, "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert sorted(line.split(" | ")[0] for line in lines[:2]) == ["like it: Carter", "like it: Miller"]
    assert lines[2] == "in Berlin: Baker 1.00"
    assert lines[3].startswith("in Berlin: Miller ")
    assert len(lines) == 4
