"""Checks that a webhook's message is the service's (Standard Webhooks, v1). Pure but for the clock, which is an
argument; must not make signatures."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from embedmill.client.errors import WebhookVerificationError

TOLERANCE_SECONDS = 300
_SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: Callable[[], float] = time.time,
) -> None:
    """Returns where the message is genuine and fresh; else raises WebhookVerificationError.

    `body` is the request's body as it came, byte for byte: JSON that was read and written again has another
    signature. `headers` may be of any case. Messages come at least once: remember `webhook-id` to know one again.
    """
    given = {name.lower(): value for name, value in headers.items()}
    missing = [
        name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not given.get(name)
    ]
    if missing:
        raise WebhookVerificationError(f"no header {missing[0]}: this is no signed message")
    said_at = given["webhook-timestamp"]
    if not (said_at.isascii() and said_at.isdigit() and len(said_at) < 16):
        raise WebhookVerificationError("the header webhook-timestamp is no time")
    if abs(now() - int(said_at)) > tolerance_seconds:
        raise WebhookVerificationError("the message is too old, or this machine's clock is wrong")
    content = body.encode() if isinstance(body, str) else body
    signed = b".".join((given["webhook-id"].encode("utf-8", "surrogateescape"), said_at.encode(), content))
    expected = base64.b64encode(hmac.digest(_key_of(secret), signed, hashlib.sha256))
    for signature in given["webhook-signature"].split():
        version, _, value = signature.partition(",")
        if version == "v1" and hmac.compare_digest(value.encode("utf-8", "surrogateescape"), expected):
            return
    raise WebhookVerificationError("no signature of this message is made with this secret")


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX) + "==")
    except (binascii.Error, ValueError) as error:
        raise WebhookVerificationError("the secret is not one of a webhook: it begins with whsec_") from error
    if not key:
        raise WebhookVerificationError("the secret is empty")
    return key
