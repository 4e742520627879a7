"""Signatures as the service makes them, and what is no signature of it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from embedmill.client import WebhookVerificationError, verify_webhook
from embedmill.webhooks.signing import WebhookSecrets

NOW = 1_800_000_000.0
HOOK, MESSAGE = UUID(int=1), UUID(int=2)
BODY = '{"type": "job.completed", "name": "naïve.pdf"}'
SECRETS = WebhookSecrets(b"pepper" * 8)


def signed(version: int = 2) -> dict[str, str]:
    return SECRETS.headers_for(
        HOOK, version, message_id=MESSAGE, at=datetime.fromtimestamp(NOW, UTC), body=BODY
    )


def verify(
    headers: dict[str, str], body: str | bytes = BODY, secret: str | None = None, at: float = NOW
) -> None:
    verify_webhook(headers, body, SECRETS.secret_for(HOOK, 2) if secret is None else secret, now=lambda: at)


def test_the_services_messages_are_genuine_whatever_the_case_of_their_headers() -> None:
    verify(signed())
    verify(signed(), BODY.encode())
    verify({name.title(): value for name, value in signed().items()}, at=NOW + 299)


def test_after_a_rotation_both_secrets_are_good() -> None:
    verify(signed(3))
    verify(signed(3), secret=SECRETS.secret_for(HOOK, 3))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**signed(), "webhook-id": str(UUID(int=3))},
        {**signed(), "webhook-timestamp": str(int(NOW) + 1)},
        {**signed(), "webhook-timestamp": "soon"},
        {**signed(), "webhook-timestamp": "²"},
        {**signed(), "webhook-signature": "v1,"},
        {**signed(), "webhook-signature": "nonsense v1,%%% \udcff ,"},
        {**signed(), "webhook-signature": signed()["webhook-signature"].replace("v1,", "v2,")},
    ],
)
def test_what_was_changed_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(WebhookVerificationError):
        verify(headers)


def test_another_body_secret_or_time_is_refused() -> None:
    for secret in ("whsec_", "", "whsec_§", SECRETS.secret_for(HOOK, 3), SECRETS.secret_for(UUID(int=9), 2)):
        with pytest.raises(WebhookVerificationError):
            verify(signed(), secret=secret)
    with pytest.raises(WebhookVerificationError):
        verify(signed(), BODY + " ")
    for at in (NOW - 301, NOW + 301):
        with pytest.raises(WebhookVerificationError, match="clock"):
            verify(signed(), at=at)
