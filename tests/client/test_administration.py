"""Keys, webhooks, budget, usage, pipelines and health through both clients, against a real service."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from embedmill import AsyncClient, Client
from embedmill.client import (
    ApiConflictError,
    ApiNotFoundError,
    InvalidRequestError,
    NotAllowedError,
    NotAuthenticatedError,
    TooLargeError,
)
from embedmill.database.pipelines import Pipeline
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, serving


async def test_health_readiness_and_pipelines(client: AsyncClient, pipeline: Pipeline) -> None:
    assert (await client.health()).status == "ok"
    assert (await client.ready()).is_ready
    found = await client.pipeline("standin")
    assert found in await client.pipelines()
    assert (found.dimensions, found.price_per_million_tokens_usd, found.is_paused) == (16, 1.0, False)
    with pytest.raises(ApiNotFoundError):
        await client.pipeline("no such/pipeline?")


async def test_keys_are_made_shown_once_and_revoked(idle_service: Serving) -> None:
    def story() -> None:
        with Client(idle_service.address) as anybody:
            assert anybody.whoami().key_id is None
            made = anybody.create_key("ci", "admin", expires_in_days=2)
        assert made.key.expires_at is not None
        assert timedelta(days=2) <= made.key.expires_at - made.key.created_at < timedelta(days=2, minutes=5)
        assert made.secret not in repr(made)
        with Client(idle_service.address, made.secret) as admin:
            me = admin.whoami()
            assert (me.role, me.key_id, me.tenant) == ("admin", made.key.id, "default")
            reader = admin.create_key("dashboard", "reader")
            keys = admin.keys()
            assert {key.name for key in keys} == {"ci", "dashboard"}
            with Client(idle_service.address, reader.secret) as restricted:
                assert list(restricted.jobs()) == []
                with pytest.raises(NotAllowedError, match="role writer"):
                    restricted.upload(b"x", name="a.txt")
                assert admin.revoke_key(reader.key.id).revoked_at is not None
                with pytest.raises(NotAuthenticatedError):
                    restricted.whoami()

    await asyncio.to_thread(story)


async def test_webhooks_from_their_making_to_their_removal(idle_service: Serving) -> None:
    async with AsyncClient(idle_service.address) as client:
        # A port of this machine is a private address.
        with pytest.raises(InvalidRequestError) as refused:
            await client.create_webhook("http://127.0.0.1:9/hook")
        assert refused.value.code == "address_refused"
    async with AsyncClient(idle_service.address) as client:
        with pytest.raises(InvalidRequestError) as wrong:
            await client.create_webhook("https://example.com", event_types=["job.exploded"])
        assert wrong.value.errors[0].field.startswith("eventTypes")
        assert await client.webhooks() == ()


async def test_a_webhook_with_its_deliveries(database: str, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/hook"
        await life_of_a_webhook(database, tmp_path, url)


async def life_of_a_webhook(database: str, tmp_path: Path, url: str) -> None:
    async with (
        serving(database, tmp_path / "data", works=False, allowed_hosts="127.0.0.1") as service,
        AsyncClient(service.address) as client,
    ):
        hook = await client.create_webhook(url, event_types=["job.failed"], description="d")
        assert hook.secret.startswith("whsec_")
        assert hook.secret not in repr(hook)
        assert (await client.webhook(hook.id)).description == "d"
        answer = await client.test_webhook(hook.id)
        assert answer.status is None
        assert answer.problem
        deliveries = [one async for one in client.deliveries(hook.id, page_size=1)]
        assert [one.id for one in deliveries] == [answer.delivery_id]
        assert [one async for one in client.deliveries(hook.id, status="delivered")] == []
        rotated = await client.rotate_webhook_secret(hook.id)
        assert rotated.secret != hook.secret
        changed = await client.change_webhook(hook.id, is_active=False, event_types=[])
        assert (changed.is_active, changed.event_types, changed.description) == (False, (), "d")
        with pytest.raises(ApiNotFoundError):
            await client.redeliver(hook.id, uuid4())
        await client.delete_webhook(hook.id)
        with pytest.raises(ApiNotFoundError):
            await client.webhook(hook.id)


async def test_usage_and_budget_add_up(
    client: AsyncClient, pipeline: Pipeline, provider: RunningProvider
) -> None:
    with pytest.raises(ApiNotFoundError):
        await client.budget()
    assert (await client.set_budget(12.5, period="total")).limit_usd == 12.5
    job = await client.upload(b"some words to pay for", name="a.txt", pipeline="standin", auto_launch=True)
    await job.wait(timeout=60)
    usage = await client.usage("day", since=datetime.now(UTC) - timedelta(days=1), time_zone="Europe/Berlin")
    assert usage.total.total_tokens == provider.stats()["tokens_paid"] > 0
    assert (usage.group_by, usage.time_zone, len(usage.rows)) == ("day", "Europe/Berlin", 1)
    assert (await client.budget()).spent_usd == pytest.approx(usage.total.cost_usd)
    counts = await client.embedding_job_counts()
    assert counts.pending == counts.processing == counts.failed == 0
    await client.remove_budget()
    with pytest.raises(InvalidRequestError):
        await client.set_budget(-1)


async def test_errors_of_the_service_are_told_with_their_codes(
    client: AsyncClient, pipeline: Pipeline
) -> None:
    with pytest.raises(ApiNotFoundError) as missing:
        await client.job(uuid4())
    assert missing.value.code == "not_found"
    with pytest.raises(InvalidRequestError) as wrong:
        await client.upload(b"x", name="a.txt", chunk_tokens=1)
    assert "chunkTokens" in wrong.value.detail
    job = await client.upload(b"x", name="a.txt", pipeline="standin", auto_launch=True)
    await job.wait(timeout=60)
    with pytest.raises(ApiConflictError):
        await job.launch()
    fetched = await client.upload_url("http://10.0.0.1/a.pdf", pipeline="standin")
    await fetched.wait(timeout=60)
    assert (fetched.status, fetched.error_message is not None) == ("failed", True)


async def test_a_file_that_is_too_large_is_told_while_it_is_sent(database: str, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    async with serving(database, tmp_path / "data", works=False, max_request_mb=2.0) as service:

        def story() -> None:
            with Client(service.address) as client, pytest.raises(TooLargeError):
                client.upload(large)

        await asyncio.to_thread(story)
        async with AsyncClient(service.address) as client:
            with pytest.raises(TooLargeError):
                await client.upload(large)
