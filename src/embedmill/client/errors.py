"""What a call of the client may raise. Owns which status is which error; the message is the service's own.

EmbedmillError
├── ApiError                    the service answered, and the answer is no
│   ├── NotAuthenticatedError   401: no key, or one that is not known (any more)
│   ├── OverBudgetError         402
│   ├── NotAllowedError         403: the key's role does not allow it
│   ├── ApiNotFoundError        404 (a NotFoundError as well)
│   ├── ApiConflictError        409: not in a state in which this can be done (a ConflictError as well)
│   ├── TooLargeError           413
│   ├── InvalidRequestError     422
│   ├── TooManyRequestsError    429: `retry_after` says how long to wait
│   └── ServiceError            5xx
├── ServiceUnreachableError     no answer: refused, broken off, too slow
├── UnreadableAnswerError       an answer that is not the service's: a proxy's page, or another version
├── JobFailedError              `wait(raise_on_failure=True)`; `job` is the record of the job
├── WaitTimeoutError            `wait(timeout=...)`; the job goes on (a TimeoutError as well)
└── WebhookVerificationError    this message is not from the service, or too old
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from embedmill.errors import ConflictError, EmbedmillError, NotFoundError

if TYPE_CHECKING:
    from embedmill.client.records.jobs import Batch, IngestionJob


class Violation(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request."""

    field: str
    message: str


class ApiError(EmbedmillError):
    """The service answered with an error. `code` is stable, `detail` is for a person and says what to do next;
    `retry_after` is seconds, None where the service said nothing of it."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: tuple[Violation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after


class NotAuthenticatedError(ApiError):
    """401: no key was given, or it is not known (any more)."""


class OverBudgetError(ApiError):
    """402: a budget leaves no room."""


class NotAllowedError(ApiError):
    """403: the key's role does not allow it."""


class ApiNotFoundError(ApiError, NotFoundError):
    """404: it does not exist, or is another tenant's."""


class ApiConflictError(ApiError, ConflictError):
    """409: it is not in a state in which this can be done."""


class TooLargeError(ApiError):
    """413: the file or the request is larger than the service takes."""


class InvalidRequestError(ApiError):
    """422: something about the request is wrong; `errors` says what, field by field."""


class TooManyRequestsError(ApiError):
    """429: wait for `retry_after` seconds."""


class ServiceError(ApiError):
    """5xx: the service, or something it needs, is not well."""


class ServiceUnreachableError(EmbedmillError):
    """No answer came. `was_sent`: the service may have got the request, and may have done it."""

    def __init__(self, message: str, *, was_sent: bool, is_silence: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        self.is_silence = is_silence


class UnreadableAnswerError(EmbedmillError):
    """The answer is not one of this API: base_url may lead to something else, or the service is of another version."""


class JobFailedError(EmbedmillError):
    """The job that was waited for failed or was cancelled; `job` is its record."""

    def __init__(self, job: IngestionJob) -> None:
        why = f" at {job.error_stage}" if job.error_stage else ""
        said = f": {job.error_message}" if job.error_message else ""
        super().__init__(f"job {job.job_id} ({job.name}) is {job.status}{why}{said}")
        self.job = job


class WaitTimeoutError(EmbedmillError, TimeoutError):
    """It had not ended in time; it goes on all the same. `seen` is what was seen of it last, if anything."""

    def __init__(self, what: str, seen: IngestionJob | Batch | None, seconds: float) -> None:
        far = "" if seen is None else f", at {seen.progress}%"
        super().__init__(
            f"{what} has not ended after {seconds:g} s{far}; it goes on: wait again, or cancel it"
        )
        self.seen = seen


class WebhookVerificationError(EmbedmillError):
    """Do not trust this message: its signature is not the secret's, or it is too old."""


class _Problem(msgspec.Struct):
    code: str
    detail: str
    errors: tuple[Violation, ...] = ()


_KINDS: dict[int, type[ApiError]] = {
    401: NotAuthenticatedError,
    402: OverBudgetError,
    403: NotAllowedError,
    404: ApiNotFoundError,
    409: ApiConflictError,
    413: TooLargeError,
    422: InvalidRequestError,
    429: TooManyRequestsError,
}


def error_of(status: int, headers: Mapping[str, str], content: bytes) -> ApiError:
    """The error that an answer is; `headers` by lower-case name. What is no problem of the service (a proxy's page)
    has the code "unexpected_answer"."""
    kind = _KINDS.get(status) or (ServiceError if status >= 500 else ApiError)
    retry_after = seconds_of(headers.get("retry-after"))
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = " ".join(content[:500].decode("utf-8", "replace").split())[:200]
        detail = f"the answer is not the service's own{': ' + said if said else ''}"
        return kind(status, "unexpected_answer", detail, retry_after=retry_after)
    return kind(status, problem.code, problem.detail, errors=problem.errors, retry_after=retry_after)


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After in seconds; None for a date, which our service never sends, and for what is no number."""
    if retry_after is None or not (retry_after.isascii() and retry_after.strip().isdigit()):
        return None
    return float(retry_after)
