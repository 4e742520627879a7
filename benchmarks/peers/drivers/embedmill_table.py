"""embedmill with a table: `embedmill table add public.texts`, and one `embedmill worker` that runs already. A row is a
document of its own here: found again by its key, kept embedded as it changes, with its own item in the queue."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.peers.drivers.embedmill import INPUTS_PER_CALL, opened, until_announced, until_embedded
from benchmarks.peers.protocol import Job
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.sources.table_plans import TablePlan
from embedmill.sources.tables import add_table

SETTINGS = f"as they come, one worker; calls of up to {INPUTS_PER_CALL:,} inputs"


class Backfill:
    def __init__(self, job: Job, app: App, pipeline: Pipeline) -> None:
        self._job = job
        self._app = app
        self._pipeline = pipeline

    async def embed(self) -> None:
        """From the command to the last vector."""
        plan = TablePlan("$body")
        await add_table(self._app.database, self._pipeline, "public.texts", plan, actor="benchmark")
        await until_embedded(self._app, len(self._job.texts))


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Backfill]:
    command = [str(Path(sys.executable).with_name("embedmill")), "worker"]
    environment = {"EMBEDMILL_DATABASE_URL": job.url, "EMBEDMILL_DATA_DIR": job.scratch, "PATH": ""}
    async with opened(job) as (app, pipeline):
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as worker:  # noqa: ASYNC220
            try:
                await until_announced(app)
                yield Backfill(job, app, pipeline)
            finally:
                worker.terminate()
                worker.wait(timeout=60)
