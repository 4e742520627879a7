"""Errors over HTTP: RFC 9457 problem details with a stable `code`. Owns which error is which status; must not know an
endpoint. Nothing of an unexpected error reaches the caller: the log has it, under the request's id."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from embedmill.api.wire import Wire
from embedmill.database.patience import AWAY
from embedmill.errors import (
    AddressRefusedError,
    BudgetReachedError,
    ConfigurationError,
    ConflictError,
    DocumentError,
    EmbedmillError,
    NotAllowedError,
    NotFoundError,
    ProviderError,
    RateLimitedError,
    StorageError,
)

_log = structlog.get_logger(__name__)
MEDIA_TYPE = "application/problem+json"
_CODES = {
    400: "invalid_request",
    401: "not_authenticated",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "too_many_requests",
    503: "unavailable",
}


class Violation(Wire):
    """One thing that is wrong with a request."""

    field: str
    message: str


class ProblemDetails(Wire):
    """RFC 9457. `code` is stable; `detail` is for a person and says what to do next."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    errors: list[Violation] | None = None


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """Ends a request with this answer."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})


def problem_response(problem: Problem, errors: list[Violation] | None = None) -> JSONResponse:
    body = ProblemDetails(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        code=problem.code,
        detail=problem.detail,
        errors=errors,
    )
    return JSONResponse(
        body.model_dump(by_alias=True, exclude_none=True),
        problem.status,
        problem.headers,
        media_type=MEDIA_TYPE,
    )


def install(application: FastAPI) -> None:
    """Every error of the application becomes a problem."""
    application.add_exception_handler(Problem, _answer_problem)
    application.add_exception_handler(HTTPException, _answer_http)
    application.add_exception_handler(RequestValidationError, _answer_invalid)
    application.add_exception_handler(EmbedmillError, _answer_known)
    for kind in AWAY:
        application.add_exception_handler(kind, _answer_away)
    application.add_exception_handler(psycopg.DataError, _answer_data)
    application.add_exception_handler(Exception, _answer_unexpected)


async def _answer_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - registered for it
    return problem_response(error)


async def _answer_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    code = _CODES.get(error.status_code, "error")
    return problem_response(Problem(error.status_code, code, str(error.detail), headers=error.headers))


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    found = [
        Violation(field=".".join(str(part) for part in each["loc"] if part != "body"), message=each["msg"])
        for each in error.errors()
    ]
    first = found[0] if found else Violation(field="", message="it cannot be read")
    detail = f"{first.field}: {first.message}" if first.field else first.message
    return problem_response(Problem(422, "invalid_request", detail), found)


async def _answer_known(_: Request, error: Exception) -> JSONResponse:
    return problem_response(problem_of(error))


def problem_of(error: Exception) -> Problem:  # noqa: PLR0911 - a table
    """What an error of ours is over HTTP."""
    text = str(error)
    match error:
        case NotFoundError():
            return Problem(404, "not_found", text)
        case NotAllowedError():
            return Problem(403, "not_allowed", text)
        case ConflictError():
            return Problem(409, "conflict", text)
        case BudgetReachedError():
            return Problem(402, "budget_reached", text)
        case DocumentError():
            return Problem(413 if error.reason == "too_large" else 422, error.reason, text)
        case AddressRefusedError():
            return Problem(422, "address_refused", text)
        case ConfigurationError():
            return Problem(422, "invalid_request", text)
        case StorageError():
            return Problem(503, "storage_unavailable", text, headers={"Retry-After": "5"})
        case RateLimitedError():
            seconds = str(max(1, round(error.retry_after_seconds or 5)))
            return Problem(503, "provider_busy", text, headers={"Retry-After": seconds})
        case ProviderError():
            return Problem(502, "provider_failed", text)
        case _:
            return Problem(503, "unavailable", text, headers={"Retry-After": "5"})


async def _answer_away(_: Request, error: Exception) -> JSONResponse:
    _log.warning("database away", error=str(error).strip())
    detail = "the database is away: try again in a few seconds"
    return problem_response(Problem(503, "database_unavailable", detail, headers={"Retry-After": "5"}))


async def _answer_data(_: Request, error: Exception) -> JSONResponse:
    """A value that PostgreSQL cannot hold, such as a NUL character or a number beyond its type."""
    assert isinstance(error, psycopg.DataError)  # noqa: S101 - registered for it
    return problem_response(Problem(422, "invalid_request", "a value cannot be stored: " + _cause(error)))


def _cause(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).splitlines()[0]


async def _answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error(
        "request failed",
        method=request.method,
        path=request.url.path,
        error=type(error).__name__,
        exc_info=error,
    )
    detail = "something went wrong here; it has been logged"
    return problem_response(Problem(500, "internal_error", detail))


def describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the API's description: these answers are problems."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for status in statuses
    }
