"""A job as an object: what it is, and what can be done to it. Owns the acts on one job; how they reach the service is
asking.py's, and Job and AsyncJob are made from the same definitions (operations.py)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Literal
from uuid import UUID

from msgspec import UNSET, UnsetType

from embedmill.client import endpoints as at
from embedmill.client.asking import Asking
from embedmill.client.errors import JobFailedError, WaitTimeoutError
from embedmill.client.job_facts import JobFacts
from embedmill.client.operations import Awaiting, Blocking, JobOperation, Listing, Operation
from embedmill.client.progress import shown
from embedmill.client.records.jobs import Chunk, IngestionJob, LaunchEstimate, Priority
from embedmill.client.sse import Event
from embedmill.client.waiting import Subject, TimeIsUpError, Waiting

_TEXT_PART_CHARACTERS = 1_000_000
_CHUNKS_A_PAGE = 500


class JobActs(JobFacts):
    """One job. What it tells is as of the last call: each act takes up what the service answered."""

    def __init__(self, asking: Asking, record: IngestionJob, *, is_known: bool = False) -> None:
        self._asking = asking
        self.record = record
        self.is_known = is_known
        """Of an upload: these bytes were there before, and this is the job they have."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.job_id} {self.name!r} {self.status} {self.progress}%>"

    @JobOperation
    async def refresh(self) -> JobActs:
        """Look at it again."""
        return await self._took(at.GET_JOB.call(self._path))

    @JobOperation
    async def launch(self) -> JobActs:
        """Embed what lacks a vector. Only a job at its preview can be launched."""
        return await self._took(at.LAUNCH_JOB.call(self._path))

    @JobOperation
    async def cancel(self) -> JobActs:
        """Stop it. Every vector is kept, and it can be resumed."""
        return await self._took(at.CANCEL_JOB.call(self._path))

    @JobOperation
    async def resume(self) -> JobActs:
        """Go on after a cancel or a failure: what has its vector is not paid for again."""
        return await self._took(at.RESUME_JOB.call(self._path))

    @JobOperation
    async def retry(self) -> JobActs:
        """As resume; chunks that the provider refused are tried again as well."""
        return await self._took(at.RETRY_JOB.call(self._path))

    @Operation
    async def delete(self) -> None:
        """Remove it. The newest job of a document takes the document with it, its vectors and the original."""
        await self._asking.ask(at.DELETE_JOB.call(self._path))

    @JobOperation
    async def change(
        self,
        *,
        chunk_tokens: int | None = None,
        chunk_overlap: int | None = None,
        priority: Priority | None = None,
        metadata: dict[str, Any] | None = None,
        budget_usd: float | UnsetType | None = UNSET,
    ) -> JobActs:
        """Change several things at once; what is left out stays as it is. A budget of None takes it away."""
        wanted = {
            "chunkTokens": chunk_tokens,
            "chunkOverlap": chunk_overlap,
            "priority": priority,
            "metadata": metadata,
        }
        body: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        if budget_usd is not UNSET:
            body["budgetUsd"] = budget_usd
        return await self._took(at.CHANGE_JOB.call(self._path, body=body))

    @JobOperation
    async def set_plan(self, *, chunk_tokens: int, chunk_overlap: int | None = None) -> JobActs:
        """Cut the document anew, before the launch: the preview comes again (`wait(until="preview")`)."""
        body = {"chunkTokens": chunk_tokens}
        if chunk_overlap is not None:
            body["chunkOverlap"] = chunk_overlap
        return await self._took(at.CHANGE_JOB.call(self._path, body=body))

    @JobOperation
    async def set_priority(self, priority: Priority) -> JobActs:
        """Its share among the tenant's jobs."""
        return await self._took(at.CHANGE_JOB.call(self._path, body={"priority": priority}))

    @JobOperation
    async def set_budget(self, budget_usd: float | None) -> JobActs:
        """The most it may spend; None: no limit of its own. Raised, a job that it stopped goes on."""
        return await self._took(at.CHANGE_JOB.call(self._path, body={"budgetUsd": budget_usd}))

    @Listing
    async def chunks(self, *, page_size: int = _CHUNKS_A_PAGE) -> AsyncGenerator[Chunk, None]:
        """The passages as they will be embedded, in order."""
        cursor: str | None = None
        while True:
            query: dict[str, at.Value] = {"cursor": cursor, "limit": page_size}
            page = await self._asking.ask(at.PREVIEW_CHUNKS.call(self._path, query=query))
            for chunk in page.chunks:
                yield chunk
            cursor = page.next_cursor
            if cursor is None:
                return

    @Operation
    async def estimate(self) -> LaunchEstimate:
        """What launching it costs now, net of vectors that are reused."""
        page = await self._asking.ask(at.PREVIEW_CHUNKS.call(self._path, query={"limit": 1}))
        return page.estimate

    @Operation
    async def text(self, *, start: int = 0, length: int | None = None) -> str:
        """The text that was read from the document, into which the chunks' offsets point; all of it, or a part."""
        parts: list[str] = []
        place, left = start, length
        while left is None or left > 0:
            asked = _TEXT_PART_CHARACTERS if left is None else min(left, _TEXT_PART_CHARACTERS)
            query: dict[str, at.Value] = {"start": place, "length": asked}
            part = await self._asking.ask(at.GET_TEXT.call(self._path, query=query))
            parts.append(part.text)
            place += len(part.text)
            left = None if left is None else left - len(part.text)
            if not part.text or place >= part.total_characters:
                break
        return "".join(parts)

    @Listing
    async def events(
        self, *, last_event_id: str | None = None, until_ended: bool = True
    ) -> AsyncGenerator[Event, None]:
        """What happens to it, as it happens: `job.*` with each change of status, `progress` with the job as it is
        (`event.decode(IngestionJob)`). Ends with the progress that shows its end, or never."""
        stream = self._asking.listen(at.STREAM_JOB.call(self._path), last_event_id)
        try:
            async for event in stream:
                if event.type == "progress":
                    self.record = event.decode(IngestionJob)
                yield event
                if event.type == "progress" and until_ended and self.record.has_ended:
                    return
        finally:
            await stream.aclose()

    @JobOperation
    async def wait(
        self,
        *,
        until: Literal["ended", "preview"] = "ended",
        progress: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - of the job's time, not of one await
        raise_on_failure: bool = False,
    ) -> JobActs:
        """Wait until it has ended (completed, cancelled or failed), or until its preview is ready.

        `progress` shows a bar on stderr if that is a terminal. `timeout` is seconds; WaitTimeoutError leaves the job
        as it is. `raise_on_failure`: JobFailedError where it failed or was cancelled. A service that is away
        for up to two minutes is waited for as well. A job that nobody launches
        waits for its launch: upload it with auto_launch=True, or wait until="preview" and launch it.
        """

        def is_there(job: IngestionJob) -> bool:
            return job.has_ended or (until == "preview" and job.status not in {"staged", "parsing"})

        with shown(progress) as show:
            subject = Subject(
                at.GET_JOB.call(self._path), at.STREAM_JOB.call(self._path), is_there, show=show
            )
            waiting = Waiting(self._asking, subject, timeout_seconds=timeout)
            try:
                self.record = await waiting.run()
            except TimeIsUpError:
                self.record = waiting.seen or self.record
                what = f"job {self.job_id} ({self.status})"
                raise WaitTimeoutError(what, self.record, timeout or 0.0) from None
        if raise_on_failure and self.record.status in {"failed", "cancelled"}:
            raise JobFailedError(self.record)
        return self

    @property
    def _path(self) -> dict[str, str | int | UUID]:
        return {"jobId": self.record.job_id}

    async def _took(self, call: at.Call[IngestionJob]) -> JobActs:
        self.record = await self._asking.ask(call)
        return self


class Job(Blocking, JobActs):
    """A job of a Client."""


class AsyncJob(Awaiting, JobActs):
    """A job of an AsyncClient."""
