"""Two tenants of one service: whatever beta asks for with its own keys, it is told nothing of alpha, and changes
nothing that is alpha's. Every operation that the service describes is tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from embedmill.app import open_app
from embedmill.queue.config import QueueConfig
from embedmill.settings import Settings
from embedmill.worker.sweeps import sweep
from tests.api.operations import LEAST_ROLE, STREAMS, Attempt, attempts, operations_of
from tests.api.two_tenants import (
    ALPHA,
    BETA,
    Secrets,
    Tenant,
    TwoTenants,
    originals_of,
    rows_of,
)
from tests.support.serving import Serving, client_at, serving

ROLES = ("reader", "writer", "admin")
LEADER = uuid4()


@pytest.fixture
async def service(two: TwoTenants) -> AsyncIterator[Serving]:
    """Nobody works, so that nothing changes by itself; and somebody leads, or the service would look for alerts."""
    lead(two)
    async with serving(two.url, two.folder, works=False, allowed_hosts="127.0.0.1") as one:
        yield one


def lead(two: TwoTenants) -> None:
    """For ever."""
    with psycopg.connect(two.url, autocommit=True) as connection:
        connection.execute(
            "UPDATE embedmill.sweep_leader SET worker_id = %s, expires_at = 'infinity'", (LEADER,)
        )


def client_of(service: Serving, tenant: Tenant, role: str = "admin") -> httpx2.AsyncClient:
    return client_at(service.address, tenant.headers(role))


async def described(service: Serving) -> set[str]:
    return operations_of((await service.client.get(f"{service.address}/openapi.json")).json())


async def send(client: httpx2.AsyncClient, attempt: Attempt) -> httpx2.Response:
    return await client.request(attempt.method, attempt.path, **attempt.sent)


def shown(response: httpx2.Response) -> str:
    return f"{dict(response.headers)} {response.text}"


async def test_every_operation_is_in_the_table_of_roles(service: Serving) -> None:
    assert await described(service) == set(LEAST_ROLE)


async def keep_up(two: TwoTenants) -> None:
    """All that the fleet's leader does by the clock: counts are folded, batches end, notes of the dead are dropped.

    A stint of beta's (POST /process-embedding-queue) leads as well where no worker does: the request is made for a
    service that has none, where nobody else would do it, beta's own batches and budgets included. It is the same for
    whoever's call it is, takes nothing from the call and tells it nothing; so it is done here before alpha is looked
    at, and whatever is different afterwards was the operations' doing.
    """
    async with open_app(Settings(database_url=two.url, data_dir=two.folder), two.url) as app:
        await app.database.fetch("DELETE FROM embedmill.sweeps")
        done = await sweep(app.database, LEADER, QueueConfig())
    lead(two)
    assert {"fold_counts", "complete_batches", "sweep_budgets", "check_tables"} <= set(done)


async def test_no_operation_tells_or_changes_anything_of_another_tenant(
    service: Serving, two: TwoTenants
) -> None:
    await keep_up(two)
    before, originals = rows_of(two, ALPHA), originals_of(two, ALPHA)
    secrets = Secrets(two)
    tried = 0
    # Uploads and shards come last: what beta says in them is told back to it from then on.
    operations = sorted(await described(service) - STREAMS)
    bringing = {"POST /api/v1/ingestion-jobs", "POST /api/v1/shards:batch"}
    operations.sort(key=lambda each: (each in bringing, each.startswith("DELETE")))
    for operation in operations:
        for role in ROLES:
            async with client_of(service, two.beta, role) as client:
                for attempt in attempts(operation, two.alpha, two.beta):
                    response = await send(client, attempt)
                    least = LEAST_ROLE[operation]
                    refused = least is not None and ROLES.index(role) < ROLES.index(least)
                    expected = 403 if refused else attempt.expected
                    assert response.status_code == expected, (role, attempt, response.text)
                    assert secrets.in_text(shown(response), said=attempt.said) == [], (role, attempt)
                    tried += 1
    assert tried > 250
    assert rows_of(two, ALPHA) == before
    assert originals_of(two, ALPHA) == originals


async def test_the_probe_finds_what_alpha_itself_is_told(service: Serving, two: TwoTenants) -> None:
    """So that an empty answer above means something: with alpha's key the same requests tell a lot."""
    secrets = Secrets(two)
    told = set()
    async with client_of(service, two.alpha) as client:
        for operation in sorted(await described(service) - STREAMS):
            if operation.startswith("GET ") and "900000001" not in operation:
                for attempt in attempts(operation, two.alpha, two.beta):
                    response = await send(client, attempt)
                    if secrets.in_text(shown(response)):
                        told.add(operation)
    silent = {"GET /healthz", "GET /readyz", "GET /api/v1/budget", "GET /api/v1/embedding-jobs/stats"}
    assert {each for each in LEAST_ROLE if each.startswith("GET ")} - STREAMS - silent == told


async def test_a_key_may_do_what_its_role_allows_and_nothing_more(service: Serving, two: TwoTenants) -> None:
    """Nothing is found and nothing is sent, so that what is allowed comes to nothing."""
    for operation, least in LEAST_ROLE.items():
        method, path = operation.split(" ")
        for name in ("{jobId}", "{batchId}", "{webhookId}", "{deliveryId}", "{keyId}"):
            path = path.replace(name, str(uuid4()))
        path = path.replace("{id}", "1").replace("{alertId}", "1").replace("{name}", "nothing")
        for role in (None, *ROLES):
            headers = two.beta.headers(role) if role else {}
            async with service.client.stream(method, service.address + path, headers=headers) as response:
                status = response.status_code
            if least is None:
                assert status == 200, operation
            elif role is None:
                assert status == 401, operation
                assert response.headers["www-authenticate"] == "Bearer"
            else:
                refused = ROLES.index(role) < ROLES.index(least)
                assert (status == 403) == refused, (operation, role, status)
                assert status in {200, 202, 204, 403, 404, 422}, (operation, role, status)


async def test_the_same_bytes_and_the_same_names_in_two_tenants_are_strangers(
    service: Serving, two: TwoTenants
) -> None:
    """Neither the bytes, nor the name of the source, nor the key of the request tells that another has it already."""
    theirs = two.alpha.jobs["completed"]
    content = b"alpha has a paper about completed, which is nobody else's.\n" * 3
    async with client_of(service, two.beta) as client:
        taken = await client.post(
            "/api/v1/ingestion-jobs",
            files={"file": ("a.txt", content)},
            data={"pipeline": "standin", "sourceId": "alpha-completed"},
            headers={"Idempotency-Key": "alpha completed"},
        )
    assert taken.status_code == 202
    assert "idempotent-replayed" not in taken.headers
    mine = taken.json()
    assert mine["isKnown"] is False
    assert (mine["jobId"], mine["documentId"]) != (theirs["jobId"], theirs["documentId"])
    with psycopg.connect(two.admin_url) as connection:
        keys = connection.execute(
            "SELECT original_key FROM embedmill.ingestion_jobs WHERE id = ANY (%s)",
            ([mine["jobId"], theirs["jobId"]],),
        ).fetchall()
    assert len(set(keys)) == 2


async def test_equal_texts_of_another_tenant_are_no_donors_of_vectors(
    two: TwoTenants, service: Serving
) -> None:
    """The estimate counts what would be reused: nothing, though alpha has paid for this very text."""
    async with client_of(service, two.beta) as client, client_of(service, two.alpha) as other:
        whose = {}
        for name, by in (("beta", client), ("alpha", other)):
            with psycopg.connect(two.admin_url, autocommit=True) as connection:
                # Made at its preview, with the chunk that alpha's completed document has.
                row = connection.execute(
                    "WITH source AS (SELECT c.* FROM embedmill.knowledge_chunks c WHERE c.document_id = %(source)s), "
                    "target AS (SELECT j.id, j.document_id, j.pipeline_id, j.tenant_id FROM embedmill.ingestion_jobs j "
                    "           WHERE j.id = %(job)s) "
                    "INSERT INTO embedmill.knowledge_chunks (tenant_id, pipeline_id, document_id, ordinal, "
                    "  start_offset, end_offset, token_count, text_config, content_hash, text) "
                    "SELECT t.tenant_id, t.pipeline_id, t.document_id, 100, 0, 1, s.token_count, s.text_config, "
                    "  s.content_hash, s.text FROM source s, target t RETURNING id",
                    {
                        "source": two.alpha.jobs["completed"]["documentId"],
                        "job": getattr(two, name).jobs["chunk_preview_ready"]["jobId"],
                    },
                ).fetchone()
            assert row is not None
            job = getattr(two, name).jobs["chunk_preview_ready"]["jobId"]
            preview = (await by.get(f"/api/v1/ingestion-jobs/{job}/chunks")).json()
            whose[name] = preview["estimate"]["reusedChunks"]
    assert whose == {"beta": 0, "alpha": 1}


async def test_a_batch_id_of_another_tenant_joins_nothing_and_tells_nothing(
    service: Serving, two: TwoTenants
) -> None:
    before = rows_of(two, ALPHA)
    batch = two.alpha.batch_id
    async with client_of(service, two.beta) as client, client_of(service, two.alpha) as other:
        theirs = (await other.get(f"/api/v1/batches/{batch}")).json()
        taken = await client.post(
            "/api/v1/ingestion-jobs",
            files={"file": ("a.txt", b"beta joins")},
            data={"pipeline": "standin", "batchId": batch},
        )
        assert taken.status_code == 202
        mine = (await client.get(f"/api/v1/batches/{batch}")).json()
        assert (mine["jobs"], mine["waiting"]) == (1, 1)
        stopped = (await client.post(f"/api/v1/batches/{batch}/cancel")).json()
        assert (stopped["done"], stopped["batch"]["cancelled"]) == (1, 1)
        assert (await other.get(f"/api/v1/batches/{batch}")).json() == theirs
        assert rows_of(two, ALPHA) == before
    # The batch of beta has ended, whatever becomes of the two jobs of alpha's.
    with psycopg.connect(two.url, autocommit=True) as connection:
        connection.execute("SELECT embedmill.complete_batches()")
        told = connection.execute(
            "SELECT t.slug, e.payload ->> 'jobs' FROM embedmill.events e "
            "JOIN embedmill.tenants t ON t.id = e.tenant_id WHERE e.type = 'batch.completed' AND e.batch_id = %s",
            (batch,),
        ).fetchall()
    assert told == [(BETA, "1")]


@asynccontextmanager
async def reading(client: httpx2.AsyncClient, path: str, last_seen: str | None) -> AsyncIterator[list[str]]:
    """The lines of a stream as they come."""
    lines: list[str] = []
    began = asyncio.Event()

    async def read() -> None:
        headers = {"Last-Event-ID": last_seen} if last_seen else {}
        async with client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                lines.append(line)
                began.set()

    task = asyncio.create_task(read())
    try:
        await began.wait()
        yield lines
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("last_seen", [None, "0-0", "alpha"])
async def test_a_stream_carries_the_events_of_its_own_tenant_only(
    service: Serving, two: TwoTenants, last_seen: str | None
) -> None:
    secrets = Secrets(two)
    seen = two.alpha.event_id if last_seen == "alpha" else last_seen
    async with (
        client_of(service, two.beta) as client,
        client_of(service, two.alpha) as other,
        reading(client, "/api/v1/events", seen) as lines,
        reading(other, "/api/v1/events", seen) as others,
    ):
        for state in ("staged", "embedding_in_progress"):
            for tenant, by in ((two.alpha, other), (two.beta, client)):
                answer = await by.post(f"/api/v1/ingestion-jobs/{tenant.jobs[state]['jobId']}/cancel")
                assert answer.status_code == 202
        # Alpha's came first: when beta's are here, alpha's would be.
        async with asyncio.timeout(30):
            for said, tenant in ((lines, two.beta), (others, two.alpha)):
                while f'"jobId": "{tenant.jobs["embedding_in_progress"]["jobId"]}"' not in _cancels(said):
                    await asyncio.sleep(0.02)
    assert secrets.in_text("\n".join(lines), said=seen or "") == []
    assert secrets.in_text("\n".join(others)) != []


def _cancels(lines: list[str]) -> str:
    return "\n".join(data for kind, data in pairwise(lines) if kind == "event: job.cancelled")


async def test_streams_of_jobs_and_batches_of_another_tenant_are_not_found(
    service: Serving, two: TwoTenants
) -> None:
    secrets = Secrets(two)
    async with client_of(service, two.beta) as client:
        paths = [f"ingestion-jobs/{job['jobId']}" for job in two.alpha.jobs.values()]
        for path in (*paths, f"batches/{two.alpha.batch_id}"):
            for last_seen in ({}, {"Last-Event-ID": "0-0"}, {"Last-Event-ID": two.alpha.event_id}):
                response = await client.get(f"/api/v1/{path}/events", headers=last_seen)
                assert response.status_code == 404
                assert secrets.in_text(shown(response), said=path) == []
        for wrong in ("x", "1", "-1-1", "9" * 20 + "-1", "1-1; SELECT 1", "18446744073709551615-1"):
            response = await client.get("/api/v1/events", headers={"Last-Event-ID": wrong})
            assert (response.status_code, response.json()["code"]) == (422, "invalid_request"), wrong


async def test_a_cursor_made_by_hand_leads_to_no_other_tenant(service: Serving, two: TwoTenants) -> None:
    """A cursor is no secret and no right: whatever stands in it, one's own rows are what is paged."""
    secrets = Secrets(two)
    async with client_of(service, two.alpha) as other, client_of(service, two.beta) as client:
        cursors = dict[str, Any]()
        for path in ("ingestion-jobs", "embedding-jobs", f"webhooks/{two.alpha.webhook_id}/deliveries"):
            cursors[path] = (await other.get(f"/api/v1/{path}?limit=1")).json()["nextCursor"]
            assert cursors[path]
        cursors[f"webhooks/{two.beta.webhook_id}/deliveries"] = cursors.pop(
            f"webhooks/{two.alpha.webhook_id}/deliveries"
        )
        for path in cursors:
            for cursor in cursors.values():
                response = await client.get(f"/api/v1/{path}", params={"cursor": cursor})
                assert response.status_code in {200, 422}, (path, response.text)
                assert secrets.in_text(response.text) == []
