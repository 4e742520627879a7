"""embedmill with documents that stand at their preview, cut, stored and indexed for full text: from the launch to the
last vector. This is the way that the bare loop is the limit of (benchmarks/writing.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

from tests.support.work import add_document

from benchmarks.peers.drivers.embedmill import INPUTS_PER_CALL, opened, until_embedded, working
from benchmarks.peers.protocol import Job
from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.storing import Launched, Storing
from embedmill.worker.loop import Worker

SETTINGS = f"as they come; calls of up to {INPUTS_PER_CALL:,} inputs"
_TEXTS_OF_A_DOCUMENT = 500


class Launch:
    def __init__(
        self,
        job: Job,
        app: App,
        pipeline: Pipeline,
        worker: Worker,
        batch_id: UUID,
        documents: list[Launched],
    ) -> None:
        self._texts = len(job.texts)
        self._app = app
        self._storing = Storing(app.database, pipeline, batch_id=batch_id, on_launched=worker.look)
        self._documents = documents

    async def embed(self) -> None:
        for document in self._documents:
            await self._storing.relaunch(document.document_id, document.job_id)
        await until_embedded(self._app, self._texts)


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Launch]:
    async with opened(job) as (app, pipeline):
        batch_id = uuid4()
        documents = [
            await add_document(app, pipeline, f"{at}", job.texts[at : at + _TEXTS_OF_A_DOCUMENT], batch_id)
            for at in range(0, len(job.texts), _TEXTS_OF_A_DOCUMENT)
        ]
        # Back to the moment before the launch.
        await app.database.fetch("DELETE FROM embedmill.embedding_queue")
        await app.database.fetch("VACUUM ANALYZE embedmill.knowledge_chunks")
        await app.database.fetch("CHECKPOINT")
        async with working(app) as worker:
            yield Launch(job, app, pipeline, worker, batch_id, documents)
