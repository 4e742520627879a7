"""Takes files in from the page of documents: dropped or chosen, one by one from a script, or many in a form where there
is none; or from a URL. Owns who may, what the form's fields mean and how the answer looks; the receiving itself is that
of the REST API (api/uploading.py), so that nothing is held in memory here either."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from embedmill.access.keys import Role
from embedmill.access.sessions import is_form_token
from embedmill.api.problems import Problem, problem_of, problem_response
from embedmill.api.service import Caller, Doorkeeper
from embedmill.api.upload_wishes import url_upload_of
from embedmill.api.uploading import Fields, ReceivedJobs, StagedJob, receive_files, receive_url
from embedmill.dashboard.documents import Typed, show_documents
from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import redirect
from embedmill.dashboard.visitors import (
    TOKEN_FIELD,
    TOKEN_HEADER,
    Visitor,
    Writer,
    assert_own_form,
    assert_own_origin,
    find_visitor,
)
from embedmill.errors import EmbedmillError, NotAllowedError
from embedmill.logs import bind

router = APIRouter()
_FIELDS = ("pipeline", "priority", "autoLaunch", "metadata", "budgetUsd", "batchId", "url")


async def uploader(request: Request) -> Visitor:
    """As visitors.Writer, for a form whose body is a stream: the token that stands in it is found when it was read, and
    until then nothing is staged. A script names it in the header, and is refused before the first byte."""
    found = await find_visitor(request)
    if not found.may("writer"):
        raise NotAllowedError(
            f"this needs a key of role {Role.WRITER.value}, and yours is {found.role.value}"
        )
    if TOKEN_HEADER in request.headers:
        await assert_own_form(request, found.form_token)
    else:
        assert_own_origin(request)
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    await doorkeeper.assert_within_rate(found.database, found.tenant_id)
    bind(tenant_id=found.tenant_id)
    return found


Uploader = Annotated[Visitor, Depends(uploader)]


def caller_of(visitor: Visitor) -> Caller:
    """The visitor as the API knows those who ask: of the tenant that he looks at."""
    principal = msgspec.structs.replace(
        visitor.principal, tenant_id=visitor.tenant_id, tenant_slug=visitor.tenant
    )
    return Caller(principal, visitor.database)


@router.post("/documents")
async def upload(request: Request, visitor: Uploader) -> Response:
    """Files of a form. A script is answered in JSON, as the API does; a browser by a page."""
    typed = Typed()
    needs_token = TOKEN_HEADER not in request.headers

    def read_fields(fields: Fields) -> Fields:
        typed.values.update({name: given[-1] for name, given in fields.items() if name in _FIELDS})
        presented = fields.get(TOKEN_FIELD, [""])[0]
        if needs_token and not is_form_token(visitor.form_token, presented):
            raise NotAllowedError("this form is no longer good: go back, reload the page and try again")
        return upload_fields(
            {name: given for name, given in fields.items() if name not in {TOKEN_FIELD, "url"}}
        )

    is_script = "application/json" in request.headers.get("accept", "")
    try:
        received = await receive_files(
            request, Response(), caller_of(visitor), visitor.service, read_fields=read_fields
        )
    except NotAllowedError:
        raise
    except (Problem, EmbedmillError) as error:
        problem = error if isinstance(error, Problem) else problem_of(error)
        return problem_response(problem) if is_script else await _refuse(request, visitor, typed, problem)
    if is_script:
        return JSONResponse(received.model_dump(mode="json", by_alias=True), 202)
    return _to_jobs(received)


@router.post("/documents/from-url")
async def fetch_url(request: Request, visitor: Writer) -> Response:
    """A document that a worker fetches."""
    form = await FormReading.of(request)
    typed = Typed({name: form.value(name) for name in _FIELDS})
    if form.text("url") is None:
        missing = Problem(422, "invalid_request", "url: say which, such as https://example.com/handbook.pdf")
        return await _refuse(request, visitor, typed, missing)
    try:
        given = {name: [value.strip()] for name, value in typed.values.items() if value.strip()}
        asked = url_upload_of(upload_fields(given))
        job = await receive_url(request, Response(), caller_of(visitor), visitor.service, asked)
    except (Problem, EmbedmillError) as error:
        problem = error if isinstance(error, Problem) else problem_of(error)
        return await _refuse(request, visitor, typed, problem)
    return _to_jobs(job)


def upload_fields(fields: Fields) -> Fields:
    """The fields of an upload as the API has them: metadata as JSON instead of lines, and without what was left empty.
    Raises Problem."""
    kept = {name: given for name, given in fields.items() if any(value.strip() for value in given)}
    if "metadata" in kept:
        kept["metadata"] = [msgspec.json.encode(read_metadata(kept["metadata"][-1])).decode()]
    if "budgetUsd" in kept:
        kept["budgetUsd"] = [kept["budgetUsd"][-1].strip().removeprefix("$").replace(",", "")]
    return kept


def read_metadata(text: str) -> dict[str, str]:
    """Lines of `key=value`. Raises Problem."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        key, sign, value = (part.strip() for part in line.partition("="))
        if not sign or not key:
            raise Problem(422, "invalid_request", f"metadata: line {number} is not of the form key=value")
        if key in found:
            raise Problem(422, "invalid_request", f"metadata: {key} is given twice")
        found[key] = value
    return found


async def _refuse(request: Request, visitor: Visitor, typed: Typed, problem: Problem) -> Response:
    """The page again, with what was typed and the fault at its field; browsers have files chosen anew."""
    typed.refuse(problem.detail)
    response = await show_documents(request, visitor, typed, status=problem.status)
    response.headers.update(problem.headers)
    return response


def _to_jobs(received: StagedJob | ReceivedJobs) -> Response:
    """The page of the job, or of the batch, with what is to be told of the files."""
    if isinstance(received, StagedJob):
        said = _said(received)
        return redirect(
            f"/documents/jobs/{received.job_id}", said, is_error=received.error_message is not None
        )
    known = sum(job.is_known for job in received.jobs)
    failed = [
        f"{job.name}: {job.error_message}" for job in received.jobs if job.error_message and not job.is_known
    ]
    parts = [f"{len(received.jobs) - len(failed)} files are taken in"]
    if known:
        parts.append(f"{known} of them were uploaded before, and have their jobs still")
    address = f"/documents/batches/{received.batch_id}" if known < len(received.jobs) else "/documents"
    return redirect(address, "; ".join(parts + failed) + ".", is_error=bool(failed))


def _said(job: StagedJob) -> str:
    if job.is_known:
        return "These bytes were uploaded before: this is the job they have."
    return job.error_message or f"{job.name} is taken in."
