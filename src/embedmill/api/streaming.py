"""Server-sent events: what happens to a job, a batch or all of a tenant, as it happens. Owns the streams, which may be
taken up again where they broke off (Last-Event-ID); must not make events.

Each event has an id, which orders it. What has none is a picture of the moment (`progress`): it is sent when it
changes, and never sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from embedmill.api.batches import Batch, BatchId
from embedmill.api.ingestion_jobs import IngestionJob, JobId
from embedmill.api.problems import Problem, describe
from embedmill.api.service import Caller, Doorkeeper, Reader, Service
from embedmill.database.patience import AWAY
from embedmill.database.queries import load_queries
from embedmill.errors import NotFoundError
from embedmill.ingest.jobs import Jobs
from embedmill.service import ServiceApp

router = APIRouter(tags=["events"])
_SQL = load_queries("embedmill.api", "events.sql")
LOOK_SECONDS = 0.5
# A comment keeps proxies from closing a silent stream; as often the caller's key is looked at again.
SILENCE_SECONDS = 15.0
_PAGE = 500
_MOST_STREAMS = 200
_ID = re.compile(r"(\d{1,19})-(\d{1,18})")
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=50, description="The id of the last event that was seen."),
]
Picture = Callable[[], Awaitable[bytes]]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events as they come; the stream does not end by itself.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **describe(401, 403, 404, 422, 429),
}


class Position(msgspec.Struct, frozen=True):
    """Behind which event a stream goes on: its transaction, and its number in it."""

    xact: str
    id: int

    def __str__(self) -> str:
        return f"{self.xact}-{self.id}"


class Stream:
    """One open stream of one caller."""

    def __init__(self, service: ServiceApp, caller: Caller, query: str, subject: UUID | None) -> None:
        self._service = service
        self._caller = caller
        self._query = query
        self._subject = subject

    async def begin(self, last_event_id: str | None) -> Position:
        """Where to go on: behind the event that the client names, or now. Raises Problem."""
        if last_event_id is not None:
            found = _ID.fullmatch(last_event_id)
            if found is None or int(found[1]) >= 2**63:
                raise Problem(422, "invalid_request", "Last-Event-ID: not the id of one of our events")
            return Position(found[1], int(found[2]))
        row = await self._caller.database.fetch_one(_SQL["head"])
        return Position(row[0] if row else "0", 0)

    async def run(
        self, position: Position, picture: Picture | None, is_welcome: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes]:
        """The events from there on, and the picture whenever it changes, until the service stops or the caller's key
        is good no more."""
        # With an id of its own: a stream that breaks off before its first event is taken up where it began.
        yield f"retry: 2000\nid: {position}\n\n".encode()
        shown, spoke_at = b"", time.monotonic()
        asked_at = spoke_at
        while not self._service.stopping.is_set():
            said = []
            try:
                events = await self._read(position)
                for event in events:
                    position = Position(event[0], event[1])
                    said.append(_event(event[2], event[3].encode(), str(position)))
                if picture is not None and (seen := await picture()) != shown:
                    said.append(_event("progress", seen))
                    shown = seen
                if time.monotonic() - asked_at > SILENCE_SECONDS:
                    if not await is_welcome():
                        return
                    asked_at = time.monotonic()
                if time.monotonic() - spoke_at > SILENCE_SECONDS:
                    said.append(b": still here\n\n")
            except AWAY:
                said.append(b": the database is away\n\n")
                events = []
            except NotFoundError:
                return  # it was deleted
            if said:
                yield b"".join(said)
                spoke_at = time.monotonic()
            if len(events) < _PAGE:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._service.stopping.wait(), LOOK_SECONDS)

    async def _read(self, position: Position) -> list[tuple[str, int, str, str]]:
        values = {
            "tenant_id": self._caller.tenant_id,
            "subject": self._subject,
            "xact": position.xact,
            "id": position.id,
            "limit": _PAGE,
        }
        rows = await self._caller.database.fetch(_SQL[self._query], values)
        return [(row[0], row[1], row[2], row[3]) for row in rows]


@router.get("/ingestion-jobs/{jobId}/events", response_class=StreamingResponse, responses=_STREAM)
async def stream_job(
    job_id: JobId, request: Request, caller: Reader, service: Service, last_event_id: LastEventId = None
) -> StreamingResponse:
    """What happens to a job: `job.*` with each change of its status, `progress` with the job as it is now."""
    jobs = Jobs(caller.database, caller.tenant_id)
    await jobs.find(job_id)

    async def picture() -> bytes:
        job = await jobs.find(job_id)
        # The time left is reckoned anew at each look: by itself it is no news.
        return (
            IngestionJob.of(msgspec.structs.replace(job, eta_seconds=_rounded(job.eta_seconds)))
            .model_dump_json(by_alias=True)
            .encode()
        )

    return await _open(request, service, caller, "of_job", job_id, last_event_id, picture)


@router.get("/batches/{batchId}/events", response_class=StreamingResponse, responses=_STREAM)
async def stream_batch(
    batch_id: BatchId, request: Request, caller: Reader, service: Service, last_event_id: LastEventId = None
) -> StreamingResponse:
    """What happens to the jobs of a batch, `batch.completed` at its end, `progress` with their sums."""
    jobs = Jobs(caller.database, caller.tenant_id)

    async def picture() -> bytes:
        return Batch.of(batch_id, await jobs.batch(batch_id)).model_dump_json(by_alias=True).encode()

    await picture()
    return await _open(request, service, caller, "of_batch", batch_id, last_event_id, picture)


@router.get("/events", response_class=StreamingResponse, responses=_STREAM)
async def stream_tenant(
    request: Request, caller: Reader, service: Service, last_event_id: LastEventId = None
) -> StreamingResponse:
    """Everything that happens to the tenant: jobs, batches, dead letters, budgets."""
    return await _open(request, service, caller, "of_tenant", None, last_event_id, None)


async def _open(
    request: Request,
    service: ServiceApp,
    caller: Caller,
    query: str,
    subject: UUID | None,
    last_event_id: str | None,
    picture: Picture | None,
) -> StreamingResponse:
    open_streams: Counter[int] = request.app.state.streams
    if open_streams[caller.tenant_id] >= _MOST_STREAMS:
        detail = f"this tenant has {_MOST_STREAMS} streams open already: close some"
        raise Problem(429, "too_many_streams", detail, headers={"Retry-After": "10"})
    stream = Stream(service, caller, query, subject)
    position = await stream.begin(last_event_id)
    doorkeeper: Doorkeeper = request.app.state.doorkeeper

    async def is_welcome() -> bool:
        return await doorkeeper.still_admits(request)

    async def counted() -> AsyncIterator[bytes]:
        open_streams[caller.tenant_id] += 1
        try:
            async for piece in stream.run(position, picture, is_welcome):
                yield piece
        finally:
            open_streams[caller.tenant_id] -= 1

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(counted(), media_type="text/event-stream", headers=headers)


def _event(kind: str, data: bytes, event_id: str | None = None) -> bytes:
    """One event; its data is one line of JSON."""
    head = f"id: {event_id}\n".encode() if event_id is not None else b""
    return head + b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(round(seconds))
