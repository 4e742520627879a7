"""An outbox on a real database, and a receiver on a real socket that checks signatures as a customer would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import pytest
import pytest_asyncio
from standardwebhooks import Webhook as Verifier

from embedmill.adapters.outbound.poster import GuardedPoster
from embedmill.database.pool import Database
from embedmill.webhooks.registry import Webhook, create_webhook
from embedmill.webhooks.sender import WebhookSender
from embedmill.webhooks.signing import WebhookSecrets
from tests.adapters.outbound.server import Answer, Request, Server, answer, serving

ACTOR = "tester"


@dataclass
class Outbox:
    """The default tenant's webhooks and deliveries."""

    database: Database
    tenant_id: int
    poster: GuardedPoster
    secrets: WebhookSecrets

    async def webhook(self, url: str, *event_types: str) -> Webhook:
        return await create_webhook(
            self.database, self.tenant_id, self.poster, url=url, event_types=event_types, actor=ACTOR
        )

    async def put(self, webhook: Webhook, number: int = 0) -> UUID:
        """One message as the trigger writes it."""
        payload = {
            "type": "job.completed",
            "timestamp": "2026-01-01T00:00:00Z",
            "data": {"number": number, "ä": 1.50},
        }
        row = await self.database.fetch_one(
            "INSERT INTO embedmill.webhook_deliveries (tenant_id, webhook_id, event_id, event_type, payload)"
            " VALUES (%s, %s, 1, 'job.completed', %s::jsonb) RETURNING id",
            (self.tenant_id, webhook.id, json.dumps(payload)),
        )
        assert row is not None
        found: UUID = row[0]
        return found

    async def state(self, delivery_id: UUID) -> tuple[str, int]:
        """Status and attempts."""
        row = await self.database.fetch_one(
            "SELECT status, attempts FROM embedmill.webhook_deliveries WHERE id = %s", (delivery_id,)
        )
        assert row is not None
        return row[0], row[1]

    async def wait(self, delivery_id: UUID) -> float:
        """Seconds until the next attempt."""
        row = await self.database.fetch_one(
            "SELECT extract(epoch FROM next_attempt_at - now())::float8"
            " FROM embedmill.webhook_deliveries WHERE id = %s",
            (delivery_id,),
        )
        assert row is not None
        return float(row[0])

    async def make_due(self) -> None:
        """Time passes: retries are due and leases have run out."""
        await self.database.fetch(
            "UPDATE embedmill.webhook_deliveries SET next_attempt_at = now() WHERE id IN ("
            "SELECT id FROM embedmill.webhook_deliveries WHERE status = 'pending' FOR UPDATE SKIP LOCKED)"
        )

    async def until(self, is_true: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not is_true():
                await asyncio.sleep(0.005)

    async def until_state(self, delivery_id: UUID, *states: tuple[str, int]) -> None:
        async with asyncio.timeout(30):
            while await self.state(delivery_id) not in states:
                await asyncio.sleep(0.005)

    def sender(self, **options: object) -> WebhookSender:
        given: dict[str, object] = {"idle_seconds": 0.02, **options}
        return WebhookSender(self.database, self.poster, self.secrets, **given)  # type: ignore[arg-type]

    @asynccontextmanager
    async def sending(self, **options: object) -> AsyncIterator[WebhookSender]:
        """A sender that runs within the block and ends well."""
        sender = self.sender(**options)
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.run())
            try:
                yield sender
            finally:
                sender.stop()


@dataclass
class Receiver:
    """Keeps what came, and answers by path; `statuses` are used up one by one before the last stays."""

    server: Server
    messages: list[Request] = field(default_factory=list)

    def url(self, path: str = "/hook") -> str:
        return self.server.url(path)

    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.messages]

    def verify(self, secret: str) -> list[dict[str, object]]:
        """The payloads; raises where a signature is wrong or a timestamp old."""
        return [Verifier(secret).verify(request.body, request.headers) for request in self.messages]


def held_until(release: asyncio.Event, reply: bytes) -> Answer:
    """An answer that comes only then."""

    async def hold(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(reply)

    return hold


@asynccontextmanager
async def receiving(*replies: bytes | Answer) -> AsyncIterator[Receiver]:
    """At /hook: one reply after the other, the last for ever; without any, 204."""
    left = list(replies) or [answer("204 No Content")]

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        receiver.messages.append(request)
        chosen = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(chosen, bytes):
            writer.write(chosen)
            await writer.drain()
        else:
            await chosen(request, writer)

    async with serving({"/hook": reply}) as server:
        receiver = Receiver(server)
        yield receiver


@pytest.fixture
def secrets() -> WebhookSecrets:
    return WebhookSecrets(b"p" * 32)


@pytest_asyncio.fixture
async def outbox(database: str, secrets: WebhookSecrets) -> AsyncIterator[Outbox]:
    async with Database(database) as opened:
        row = await opened.fetch_one("SELECT id FROM embedmill.tenants WHERE slug = 'default'")
        assert row is not None
        yield Outbox(opened, row[0], GuardedPoster(allowed=["127.0.0.1"], total_seconds=60.0), secrets)
