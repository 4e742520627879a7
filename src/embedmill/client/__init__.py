"""The Python client of the service's REST API: `from embedmill import Client, AsyncClient`. Needs no extra and nothing
of the service itself, and must not import it. These are its public names."""

from embedmill.client.client import AsyncClient, Client
from embedmill.client.errors import (
    ApiConflictError,
    ApiError,
    ApiNotFoundError,
    InvalidRequestError,
    JobFailedError,
    NotAllowedError,
    NotAuthenticatedError,
    OverBudgetError,
    ServiceError,
    ServiceUnreachableError,
    TooLargeError,
    TooManyRequestsError,
    UnreadableAnswerError,
    WaitTimeoutError,
    WebhookVerificationError,
)
from embedmill.client.forms import FileChangedError
from embedmill.client.jobs import AsyncJob, Job
from embedmill.client.shards import ShardChange
from embedmill.client.sse import Event
from embedmill.client.uploads import UploadWishes
from embedmill.client.webhook_signatures import verify_webhook

__all__ = [
    "ApiConflictError",
    "ApiError",
    "ApiNotFoundError",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "Event",
    "FileChangedError",
    "InvalidRequestError",
    "Job",
    "JobFailedError",
    "NotAllowedError",
    "NotAuthenticatedError",
    "OverBudgetError",
    "ServiceError",
    "ServiceUnreachableError",
    "ShardChange",
    "TooLargeError",
    "TooManyRequestsError",
    "UnreadableAnswerError",
    "UploadWishes",
    "WaitTimeoutError",
    "WebhookVerificationError",
    "verify_webhook",
]
