"""The limit: full calls, decode, binary COPY of (id, vector); no queue, no text, and nothing to resume from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.peers.protocol import Job
from benchmarks.writing import CALLS_IN_FLIGHT, INPUTS_PER_CALL, bare_loop

SETTINGS = f"{CALLS_IN_FLIGHT} calls in flight, {INPUTS_PER_CALL:,} inputs a call"


class Loop:
    def __init__(self, job: Job) -> None:
        self._job = job

    async def embed(self) -> float:
        """It makes its table and drops it, untimed."""
        texts = self._job.texts
        return len(texts) / await bare_loop(self._job.url, self._job.base_url, texts, "vector")


@asynccontextmanager
async def ready(job: Job) -> AsyncIterator[Loop]:
    yield Loop(job)
