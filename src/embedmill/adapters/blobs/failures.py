"""What went wrong in a store, in words that say what to do. Owns the way from errors of the system and of obstore
to StorageError; the texts of servers stay out of the message, for they hold addresses and sometimes signatures."""

from __future__ import annotations

import errno
import re

from embedmill.errors import StorageError

ELSEWHERE = "set EMBEDMILL_ORIGINALS_URL to another store"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EBUSY}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|container does not exist")
_CREDENTIALS = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthenticationFailed|InvalidAuthentication"
    r"|credential|169\.254\.169\.254|metadata\.google\.internal|/oauth2?/|MissingAccessKey",
    re.IGNORECASE,
)


def explain_system_error(error: OSError, place: str) -> StorageError:
    """What a disk said."""
    said = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return StorageError(
            "full", f"no room for originals in {place} ({said}): free some, or {ELSEWHERE}", retryable=True
        )
    if error.errno in _FORBIDDEN:
        return StorageError(
            "forbidden",
            f"this account may not write and read in {place} ({said}): give it the right, or {ELSEWHERE}",
        )
    return StorageError(
        "failed",
        f"the store of originals in {place} does not work ({said}): mend it, or {ELSEWHERE}",
        retryable=error.errno in _PASSING,
    )


def explain_missing(key: str, place: str) -> StorageError:
    return StorageError(
        "missing", f"the original {key} is not in {place} any more: upload the file again to go on with it"
    )


def explain_bucket_error(error: Exception, place: str, doing: str, key: str) -> StorageError:
    """What a bucket said, or why it could not be asked; `doing` completes "may not ..."."""
    text = str(error).partition("\n\nDebug source")[0]
    kind = type(error).__name__
    code = _CODE.search(text)
    status = _STATUS.search(text)
    said = f" ({code[1]})" if code else f" (status {status[1]})" if status else ""
    if _NO_BUCKET.search(text):
        return StorageError(
            "no_bucket",
            f"there is no such bucket: {place}{said}. Create it, or correct EMBEDMILL_ORIGINALS_URL",
        )
    if kind == "UnauthenticatedError" or _CREDENTIALS.search(text):
        return StorageError(
            "credentials",
            f"no valid credentials for {place}{said}: set those of the provider in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, "
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY)",
        )
    if kind == "PermissionDeniedError":
        return StorageError(
            "forbidden",
            f"the credentials in use may not {doing} {place}{said}: allow them to put, get, list and delete objects",
        )
    if isinstance(error, FileNotFoundError):
        return explain_missing(key, place)
    if status is None or int(status[1]) in {408, 425, 429} or int(status[1]) >= 500:
        return explain_silence(place, said)
    return StorageError(
        "failed", f"{place} refused to {doing} it{said}: look at its settings, region and endpoint"
    )


def explain_silence(place: str, said: str = "") -> StorageError:
    return StorageError(
        "unreachable",
        f"{place} does not answer as it should{said}: look at the network, the region and the endpoint "
        "(AWS_REGION, AWS_ENDPOINT_URL)",
        retryable=True,
    )
