"""Uploads, jobs, batches and streams, for both clients. Each method is one definition (operations.py)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Unpack
from uuid import uuid4

from embedmill.client import endpoints as at
from embedmill.client.asking import Asking
from embedmill.client.errors import WaitTimeoutError
from embedmill.client.forms import FileLike, FilePart, Form
from embedmill.client.jobs import JobActs
from embedmill.client.operations import JobListing, JobOperation, JobsOperation, Listing, Operation
from embedmill.client.progress import shown
from embedmill.client.records.jobs import Batch, BatchAct, IngestionJob, JobStatus, StagedJob
from embedmill.client.sse import Event
from embedmill.client.uploads import UploadWishes, fields_of, json_of, requests_of, staged_of
from embedmill.client.waiting import Subject, TimeIsUpError, Waiting


class IngestionCalls:
    """Documents in."""

    _asking: Asking
    _job_kind: type[JobActs]

    @JobOperation
    async def upload(
        self, file: FileLike, *, name: str | None = None, **wishes: Unpack[UploadWishes]
    ) -> JobActs:
        """Upload a file: a path, an open binary file, or bytes (with a `name`, whose ending tells what they are).

        Bytes that were uploaded before are recognised: `job.is_known`. It is sent again where the connection breaks,
        and made once only. Raises OSError where there is no such file, ApiError, ServiceUnreachableError.
        """
        staged = await self._send([FilePart.of(file, name)], wishes)
        return await self._job_of(staged[0])

    @JobsOperation
    async def upload_files(
        self, files: Iterable[FileLike | tuple[str, FileLike]], **wishes: Unpack[UploadWishes]
    ) -> list[JobActs]:
        """Upload several files as one batch; each may be a pair of a name and a file. What is wrong with one is told
        by its job (`error_message`), and harms no other. Many files go in several requests."""
        parts = [
            FilePart.of(file[1], file[0]) if isinstance(file, tuple) else FilePart.of(file) for file in files
        ]
        batch_id = wishes.get("batch_id") or uuid4()
        wishes["batch_id"] = batch_id
        staged: list[StagedJob] = []
        for request in requests_of(parts):
            staged += await self._send(request, wishes)
        records = (
            {job.job_id: job async for job in self._pages({"batchId": str(batch_id)})} if staged[1:] else {}
        )
        return [
            self._job_kind(self._asking, records[one.job_id], is_known=one.is_known)
            if one.job_id in records
            else await self._job_of(one)
            for one in staged
        ]

    @JobOperation
    async def upload_url(self, url: str, **wishes: Unpack[UploadWishes]) -> JobActs:
        """Have the service fetch a document from a URL. Private addresses are refused."""
        call = at.CREATE_JOBS.call(body={"url": url, **json_of(wishes)}, idempotency_key=uuid4().hex)
        answer = await self._asking.ask(call)
        return await self._job_of(staged_of(answer)[0])

    @JobOperation
    async def job(self, job_id: at.Id) -> JobActs:
        """One job, as it is now."""
        return self._handle(await self._asking.ask(at.GET_JOB.call({"jobId": at.id_of(job_id)})))

    @JobListing
    async def jobs(
        self,
        *,
        status: JobStatus | None = None,
        batch_id: at.Id | None = None,
        pipeline: str | None = None,
        document_id: int | None = None,
        page_size: int = 100,
    ) -> AsyncGenerator[JobActs, None]:
        """Jobs of the tenant, newest first; pages are asked for as they are wanted."""
        where: dict[str, at.Value] = {
            "status": status,
            "batchId": None if batch_id is None else at.id_of(batch_id),
            "pipeline": pipeline,
            "documentId": document_id,
        }
        async for record in self._pages(where, page_size):
            yield self._handle(record)

    @Operation
    async def batch(self, batch_id: at.Id) -> Batch:
        """How far the jobs of a batch have come."""
        return await self._asking.ask(at.GET_BATCH.call({"batchId": at.id_of(batch_id)}))

    @Operation
    async def launch_batch(self, batch_id: at.Id) -> BatchAct:
        """Launch every job of the batch that is at its preview."""
        return await self._asking.ask(at.LAUNCH_BATCH.call({"batchId": at.id_of(batch_id)}))

    @Operation
    async def cancel_batch(self, batch_id: at.Id) -> BatchAct:
        """Stop every job of the batch that has not ended."""
        return await self._asking.ask(at.CANCEL_BATCH.call({"batchId": at.id_of(batch_id)}))

    @Operation
    async def resume_batch(self, batch_id: at.Id) -> BatchAct:
        """Go on with every job of the batch that was cancelled or failed."""
        return await self._asking.ask(at.RESUME_BATCH.call({"batchId": at.id_of(batch_id)}))

    @Operation
    async def wait_for_batch(
        self,
        batch_id: at.Id,
        *,
        progress: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - of the batch's time, not of one await
    ) -> Batch:
        """Wait until each job of the batch has ended. `progress` and `timeout` as of `Job.wait`."""
        path = {"batchId": at.id_of(batch_id)}
        with shown(progress) as show:
            subject = Subject(
                at.GET_BATCH.call(path), at.STREAM_BATCH.call(path), lambda batch: batch.has_ended, show=show
            )
            waiting = Waiting(self._asking, subject, timeout_seconds=timeout)
            try:
                return await waiting.run()
            except TimeIsUpError:
                raise WaitTimeoutError(f"batch {batch_id}", waiting.seen, timeout or 0.0) from None

    @Listing
    async def batch_events(
        self, batch_id: at.Id, *, last_event_id: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """What happens to the jobs of a batch, without end; `progress` has their sums (`event.decode(Batch)`)."""
        stream = self._asking.listen(at.STREAM_BATCH.call({"batchId": at.id_of(batch_id)}), last_event_id)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    @Listing
    async def events(self, *, last_event_id: str | None = None) -> AsyncGenerator[Event, None]:
        """Everything that happens to the tenant, without end; after a break it goes on behind the last event."""
        stream = self._asking.listen(at.STREAM_TENANT.call(), last_event_id)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    async def _send(self, parts: list[FilePart], wishes: UploadWishes) -> list[StagedJob]:
        form = Form(fields_of(wishes), parts)
        answer = await self._asking.ask(at.CREATE_JOBS.call(form=form, idempotency_key=uuid4().hex))
        return staged_of(answer)

    async def _pages(self, where: dict[str, Any], page_size: int = 500) -> AsyncGenerator[IngestionJob, None]:
        cursor: str | None = None
        while True:
            query = {**where, "cursor": cursor, "limit": page_size}
            page = await self._asking.ask(at.LIST_JOBS.call(query=query))
            for record in page.jobs:
                yield record
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _job_of(self, staged: StagedJob) -> JobActs:
        record = await self._asking.ask(at.GET_JOB.call({"jobId": staged.job_id}))
        return self._job_kind(self._asking, record, is_known=staged.is_known)

    def _handle(self, record: IngestionJob) -> JobActs:
        return self._job_kind(self._asking, record)
