"""Receives uploads: a form with files as it streams in, or the name of a URL. Owns the reading of the request and its
answer; must not hold a file. Each file is one story: what is wrong with one is told in its job."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from uuid import UUID, uuid4, uuid5

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from embedmill.api.idempotency import answered_once
from embedmill.api.multipart import FilePart, FormError, FormLimits, read_form
from embedmill.api.problems import Problem
from embedmill.api.service import Caller
from embedmill.api.upload_wishes import (
    UploadWishes,
    UrlUpload,
    assert_plan,
    read_url_upload,
    stage_wishes,
    wishes_of,
)
from embedmill.api.wire import Wire
from embedmill.database.pipelines import Pipeline, find_pipeline
from embedmill.errors import ConflictError, DocumentError
from embedmill.ingest.jobs import Jobs
from embedmill.ingest.upload import Kept, Staged, Uploads
from embedmill.service import ServiceApp

Fields = Mapping[str, list[str]]
_MIB = 1024 * 1024
_URL_JOBS = UUID("1f0c35c2-6f0e-4b6b-9a55-0c7f8ab0a1d4")


class StagedJob(Wire):
    """A job that was taken in. `isKnown`: these bytes were uploaded before, and this is the job they have."""

    job_id: UUID
    document_id: int
    status: str
    is_resumable: bool
    is_known: bool
    name: str
    batch_id: UUID | None
    error_message: str | None


class ReceivedJobs(Wire):
    """The jobs of a request with several files, in their order."""

    batch_id: UUID
    jobs: list[StagedJob]


def as_sent(fields: Fields) -> Fields:
    """The fields as the API has them already."""
    return fields


async def receive(
    request: Request, response: Response, caller: Caller, service: ServiceApp
) -> StagedJob | ReceivedJobs:
    """The jobs of a request. Raises Problem where the request as a whole is wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await receive_files(request, response, caller, service)
    if kind in {"application/json", ""}:
        return await receive_url(request, response, caller, service, await read_url_upload(request))
    raise Problem(
        415, "unsupported_media_type", "send multipart/form-data with files, or application/json with a url"
    )


async def receive_files(
    request: Request,
    response: Response,
    caller: Caller,
    service: ServiceApp,
    *,
    read_fields: Callable[[Fields], Fields] = as_sent,
) -> StagedJob | ReceivedJobs:
    """The jobs of the files of a form. `read_fields` turns what stands beside the files into the fields of an upload,
    once all has been read and before anything is staged; what it raises ends the request. Raises Problem."""
    most_bytes = await _assert_room(caller, service)
    uploads = Uploads(caller.database, service.originals, caller.tenant_id)
    kept: list[Kept] = []

    async def on_file(part: FilePart, content: AsyncIterator[bytes]) -> Kept:
        one = await uploads.keep(part.name, part.media_type, content, max_bytes=most_bytes)
        kept.append(one)
        return one

    limits = FormLimits(
        max_files=service.settings.max_request_files,
        max_total_bytes=int(service.settings.max_request_mb * _MIB),
    )
    try:
        form = await read_form(
            request.stream(), request.headers.get("content-type", ""), on_file=on_file, limits=limits
        )
        wishes = wishes_of(read_fields(form.fields))
        _assert_files(form.files, wishes)
        pipeline = await find_pipeline(caller.database, caller.tenant_id, wishes.pipeline)
        assert_plan(wishes, pipeline)
        said = _said(wishes, [one.original.sha256 if one.original else b"" for one in form.files])
        async with answered_once(request, response, caller.database, caller.tenant_id, said) as answer:
            if answer.stored is not None:
                return _revived(answer.stored)
            answer.body = await _stage_files(caller, uploads, pipeline, kept, wishes)
            return _revived(answer.body)
    except FormError as error:
        raise Problem(error.status, error.code, str(error)) from error
    except ClientDisconnect as error:
        raise Problem(400, "truncated_form", "the connection ended before the form did") from error
    finally:
        for one in kept:  # what was not staged, however it came to that
            await uploads.discard(one)


async def _stage_files(
    caller: Caller, uploads: Uploads, pipeline: Pipeline, kept: list[Kept], wishes: UploadWishes
) -> dict[str, Any]:
    batch_id = wishes.batch_id or (uuid4() if len(kept) > 1 else None)
    jobs = []
    while kept:
        one = kept.pop(0)  # from here on the database may know of it, also where we do not hear so
        staged = await uploads.stage(pipeline, one, stage_wishes(wishes, pipeline, batch_id))
        jobs.append(await _answer(caller, staged, one.name, batch_id, wishes))
    if len(jobs) == 1:
        return jobs[0].model_dump(mode="json")
    return ReceivedJobs(batch_id=batch_id or uuid4(), jobs=jobs).model_dump(mode="json")


async def receive_url(
    request: Request, response: Response, caller: Caller, service: ServiceApp, asked: UrlUpload
) -> StagedJob:
    """The job of a document that a worker fetches. Raises Problem."""
    await _assert_room(caller, service)
    uploads = Uploads(caller.database, service.originals, caller.tenant_id)
    pipeline = await find_pipeline(caller.database, caller.tenant_id, asked.pipeline)
    assert_plan(asked, pipeline)
    said = _said(asked, [])
    async with answered_once(request, response, caller.database, caller.tenant_id, said) as answer:
        if answer.stored is None:
            staged = await uploads.stage_url(
                pipeline,
                asked.url,
                stage_wishes(asked, pipeline, asked.batch_id),
                job_id=_job_id_of(request, caller, asked),
            )
            job = await _answer(caller, staged, None, asked.batch_id, asked)
            answer.body = job.model_dump(mode="json")
            return job
        return StagedJob.model_validate(answer.stored)


async def _answer(
    caller: Caller, staged: Staged, name: str | None, batch_id: UUID | None, wishes: UploadWishes
) -> StagedJob:
    """What is told of a job; one that was found again goes on, where it is to be launched by itself. A `name` of None
    is the database's to say."""
    jobs = Jobs(caller.database, caller.tenant_id)
    job = await jobs.find(staged.job_id)
    if staged.is_known and wishes.auto_launch:
        with contextlib.suppress(ConflictError):  # somebody else was quicker; its status says what it is
            if job.status == "chunk_preview_ready":
                await jobs.launch(job.id)
            elif job.status in {"cancelled", "failed"}:
                await jobs.resume(job.id)
        job = await jobs.find(staged.job_id)
    return StagedJob(
        job_id=job.id,
        document_id=job.document_id,
        status=job.status,
        is_resumable=job.is_resumable,
        is_known=staged.is_known,
        name=job.name,
        batch_id=job.batch_id,
        error_message=job.error_message,
    )


async def _assert_room(caller: Caller, service: ServiceApp) -> int:
    """Whether the tenant may stage more; returns the most bytes of a file of its."""
    room = await Jobs(caller.database, caller.tenant_id).room()
    most = room.max_staged_jobs or service.settings.max_staged_jobs
    if room.staged_jobs >= most:
        detail = f"{room.staged_jobs} jobs of this tenant wait for a parser already: try again when there are fewer"
        raise Problem(429, "too_many_jobs", detail, headers={"Retry-After": "30"})
    return min(service.settings.max_file_bytes, room.max_file_bytes or service.settings.max_file_bytes)


def _assert_files(files: list[Kept], wishes: UploadWishes) -> None:
    if not files:
        raise Problem(422, "invalid_request", "file: the form has no file")
    if len(files) == 1 and isinstance(files[0].error, DocumentError):
        raise Problem(413, files[0].error.reason, str(files[0].error))
    if len(files) > 1 and wishes.source_id is not None:
        raise Problem(422, "invalid_request", "sourceId names one document: upload one file with it")


def _job_id_of(request: Request, caller: Caller, asked: UrlUpload) -> UUID | None:
    """The same for the same request under the same key: where we were killed before its answer was kept, it finds the
    job that it had made."""
    key = request.headers.get("idempotency-key")
    return (
        uuid5(_URL_JOBS, f"{caller.tenant_id} {key} {hashlib.sha256(_said(asked, [])).hexdigest()}")
        if key
        else None
    )


def _said(wishes: UploadWishes, files: list[bytes]) -> bytes:
    """What was asked for: by it a key that is used for something else is told from one that is sent again."""
    return wishes.model_dump_json().encode() + b"".join(files)


def _revived(stored: dict[str, Any]) -> StagedJob | ReceivedJobs:
    return (ReceivedJobs if "jobs" in stored else StagedJob).model_validate(stored)
