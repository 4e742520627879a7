"""embedmill with documents: what `embedmill ingest FOLDER` does. The files are read, parsed and cut within the clock,
the chunks indexed for full text; they are the texts of this run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from benchmarks.peers.drivers.embedmill import INPUTS_PER_CALL, PLAN, opened, until_embedded, working
from benchmarks.peers.protocol import Job
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.embed.generations import loading
from embedmill.ingest.folder import FolderIngestion, FolderRun
from embedmill.ingest.parsing_protocol import ParseRequest

SETTINGS = f"as they come; calls of up to {INPUTS_PER_CALL:,} inputs"


class Ingestion:
    def __init__(
        self, job: Job, app: App, pipeline: Pipeline, ingestion: FolderIngestion, files: list[Path]
    ) -> None:
        self._texts = len(job.texts)
        self._app = app
        self._pipeline = pipeline
        self._ingestion = ingestion
        self._files = files

    async def embed(self) -> None:
        async with loading(self._app.database, self._pipeline):
            await self._ingestion.run(self._files, FolderRun(total=len(self._files)))
        await until_embedded(self._app, self._texts)


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Ingestion]:
    files = sorted(Path(job.folder).iterdir())  # noqa: ASYNC240 - nothing else runs yet
    async with (
        opened(job) as (app, pipeline),
        working(app) as worker,
        app.parsers() as parsers,
        app.direct_embedder(
            pipeline, worker_id=worker.identity.worker_id, on_event=lambda event: None
        ) as direct,
    ):
        first = ParseRequest(
            name="first.txt", text="ready", plan=PLAN, tokenizer=app.tokenizer(pipeline.generation.spec)
        )
        # The parsing processes start with their first document.
        await asyncio.gather(*(parsers.parse(first) for _ in range(app.settings.parser_processes)))
        ingestion = app.folder_ingestion(
            pipeline,
            parsers,
            batch_id=uuid4(),
            priority="medium",
            embed_directly=direct.embed,
            on_launched=worker.look,
        )
        yield Ingestion(job, app, pipeline, ingestion, files)
