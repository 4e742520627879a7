"""Secrets of webhooks and what is signed with them (Standard Webhooks, v1: HMAC-SHA256). Owns their derivation from the
service's own secret: the database holds none, and none is logged."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime
from uuid import UUID

from standardwebhooks import Webhook as Signer

from embedmill.errors import ConfigurationError

SHORTEST_PEPPER_BYTES = 32


class WebhookSecrets:
    """The secrets of all webhooks of this service."""

    def __init__(self, pepper: bytes) -> None:
        """`pepper`: the service's own secret. Raises ConfigurationError for one that could be guessed."""
        if len(pepper) < SHORTEST_PEPPER_BYTES:
            raise ConfigurationError(
                f"the secret that signs webhooks has less than {SHORTEST_PEPPER_BYTES} bytes: make a new one at random"
            )
        self._pepper = pepper

    def __repr__(self) -> str:
        return "WebhookSecrets()"

    def secret_for(self, webhook_id: UUID, version: int) -> str:
        """`whsec_...`, as the receiver needs it."""
        derived = hmac.new(self._pepper, f"webhook:{webhook_id}:{version}".encode(), hashlib.sha256).digest()
        return "whsec_" + base64.b64encode(derived).decode("ascii")

    def headers_for(
        self, webhook_id: UUID, version: int, *, message_id: UUID, at: datetime, body: str
    ) -> dict[str, str]:
        """The headers of one attempt. `at` is aware.

        Signed with the secret before as well: a receiver may go over to the new one when it likes. Who has taken
        the new one does not accept the old, so that one that leaked is of no use against it.
        """
        signatures = [
            Signer(self.secret_for(webhook_id, which)).sign(str(message_id), at, body)
            for which in (version, version - 1)
            if which > 0
        ]
        return {
            "webhook-id": str(message_id),
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
