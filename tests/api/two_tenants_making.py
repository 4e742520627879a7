"""How the two tenants of two_tenants.py come to be: their database, whose owner is no superuser, and all that each of
them has, made through the service. Must not assert."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import psycopg
from psycopg import sql

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database import migrator
from embedmill.queue.sharing import create_tenant
from tests.api.two_tenants import ALPHA, BETA, FIRST_OF_ALPHA, Tenant, TwoTenants
from tests.support.postgres import TestServer, with_database
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, client_at, serving
from tests.support.work import DIMENSIONS, stand_in_pipeline

CLOSED_PORT = "http://127.0.0.1:64999/hook"
"""Nobody listens there: deliveries fail at once."""


@contextmanager
def login(admin_url: str, *memberships: str) -> Iterator[str]:
    """The URL of a new account, a member of these roles and nothing more; it is gone afterwards."""
    name, password = f"test_{uuid.uuid4().hex[:16]}", uuid.uuid4().hex
    with psycopg.connect(admin_url, autocommit=True) as connection:
        who = sql.Identifier(name)
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD {}").format(
                who, sql.Literal(password)
            )
        )
        for role in memberships:
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), who))
        parts = urlsplit(admin_url)
        place = parts.netloc.rpartition("@")[2]
        try:
            yield parts._replace(netloc=f"{name}:{password}@{place}").geturl()
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(who))


@contextmanager
def owned_database(server: TestServer) -> Iterator[tuple[str, str]]:
    """A migrated database whose owner is no superuser: its URL as the owner, and as the administrator."""
    server.drop(server.create(migrated=True))  # which makes the two roles, where nobody has yet
    with login(server.url, "embedmill_service", "embedmill_reader") as owner:
        admin_url = server.create(migrated=False)
        name = urlsplit(admin_url).path.lstrip("/")
        url = with_database(owner, name)
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                    sql.Identifier(name), sql.Identifier(urlsplit(owner).username or "")
                )
            )
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                migrator.migrate(connection)
            yield url, admin_url
        finally:
            server.drop(admin_url)


async def make_two_tenants(url: str, admin_url: str, folder: Path, provider: RunningProvider) -> TwoTenants:
    """Beta first, then alpha with its own numbers, then on with others."""
    provider.reset(dimensions=DIMENSIONS)
    provider.configure(poison="POISON")
    tenants = {}
    async with serving(url, folder, allowed_hosts="127.0.0.1") as one:
        for slug, first in ((BETA, 1000), (ALPHA, FIRST_OF_ALPHA)):
            _set_sequences(url, first)
            tenants[slug] = await _make(one, slug, provider)
        _set_sequences(url, 500_000_000)
    for slug in (BETA, ALPHA):
        _finish(url, tenants[slug])
    # Somebody leads, or the service would look for alerts, and beta's would get numbers of alpha's.
    _lead(url, "infinity")
    async with serving(url, folder, works=False) as one:
        for slug, first in ((BETA, 5000), (ALPHA, FIRST_OF_ALPHA + 50_000)):
            _set_sequences(url, first)
            # Nobody parses here: these two stay as they were taken in.
            async with _client(one, tenants[slug]) as client:
                await _take(client, tenants[slug], "staged")
        _set_sequences(url, 600_000_000)
    _lead(url, "-infinity")
    return TwoTenants(url, admin_url, folder, tenants[ALPHA], tenants[BETA])


def _lead(url: str, until: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE embedmill.sweep_leader SET expires_at = %s", (until,))


async def _make(one: Serving, slug: str, provider: RunningProvider) -> Tenant:
    tenant = Tenant(slug)
    await create_tenant(one.app.database, slug, weight=1.0, max_processing_items=None, actor="test")
    app = App(msgspec.structs.replace(one.app.settings, tenant=slug), one.app.database)
    for name in ("standin", "held"):
        await stand_in_pipeline(
            app, provider.base_url, name, dimensions=DIMENSIONS, price_per_million_tokens=1
        )
    await one.app.database.fetch(
        "UPDATE embedmill.pipelines p SET paused_at = now() FROM embedmill.tenants t "
        "WHERE t.id = p.tenant_id AND t.slug = %s AND p.name = 'held'",
        (slug,),
    )
    for role in Role:
        made = await one.client_of(role, slug)
        tenant.keys[role.value] = made.headers["authorization"].removeprefix("Bearer ")
    async with _client(one, tenant) as client:
        await _make_settings(client, tenant)
        await _make_shards(client, tenant)
        await _make_jobs(client, tenant)
    return tenant


async def _make_settings(client: httpx2.AsyncClient, tenant: Tenant) -> None:
    """A webhook with a delivery, a budget, keys of names that tell whose they are."""
    url = f"{CLOSED_PORT}/{tenant.slug}"
    made = await _ok(client.post("/webhooks", json={"url": url, "description": f"{tenant.slug} told of all"}))
    tenant.webhook_id = made["id"]
    tenant.delivery_id = (await _ok(client.post(f"/webhooks/{tenant.webhook_id}/test")))["deliveryId"]
    await _ok(client.put("/budget", json={"limitUsd": 100}))
    for name in ("first", "second"):
        key = await _ok(client.post("/keys", json={"name": f"{tenant.slug} {name}", "role": "reader"}))
        tenant.key_ids.append(key["key"]["id"])


async def _make_shards(client: httpx2.AsyncClient, tenant: Tenant) -> None:
    """One shard that is embedded, one that was deleted, one that cannot be stored."""
    tenant.shard_type_id, tenant.shard_id = f"{tenant.slug}-articles", f"{tenant.slug}-1"
    said = [
        {
            "shardId": tenant.shard_id,
            "content": f"{tenant.slug} has an article",
            "metadata": {"owner": tenant.slug},
        },
        {"shardId": f"{tenant.slug}-2", "operation": "delete", "version": 3},
        {"shardId": f"{tenant.slug}-3", "content": f"{tenant.slug} has a \0"},
    ]
    entries = [{"shardTypeId": tenant.shard_type_id, **each} for each in said]
    await _ok(client.post("/shards:batch", json={"shards": entries}, params={"pipeline": "standin"}))
    async with asyncio.timeout(60):
        while (feed := await _ok(client.get(f"/shards/{tenant.shard_type_id}")))["documents"] < 2 or not feed[
            "embedded"
        ]:
            await asyncio.sleep(0.02)


async def _make_jobs(client: httpx2.AsyncClient, tenant: Tenant) -> None:
    """One job in every state, a batch of two, one chunk that was refused."""
    await _take(client, tenant, "completed", autoLaunch="true")
    await _take(client, tenant, "poisoned", text=f"{tenant.slug} keeps POISON in a jar", autoLaunch="true")
    await _take(client, tenant, "chunk_preview_ready", budgetUsd="5")
    await _take(client, tenant, "cancelled")
    await _ok(client.post(f"/ingestion-jobs/{tenant.jobs['cancelled']['jobId']}/cancel"))
    await _take(client, tenant, "failed", name=f"{tenant.slug}.pdf", text="%PDF-1.7 alpha's is no PDF at all")
    await _take(client, tenant, "embedding_in_progress", pipeline="held", autoLaunch="true")
    files = [("file", (f"{tenant.slug}{n}.txt", f"{tenant.slug} batch {n}".encode())) for n in range(2)]
    taken = await _ok(client.post("/ingestion-jobs", files=files, data={"pipeline": "standin"}))
    tenant.batch_id = taken["batchId"]
    tenant.jobs["batch"] = taken["jobs"][0]
    for job in (*tenant.jobs.values(), *taken["jobs"]):
        await _settled(client, job["jobId"])
    page = await _ok(client.get("/ingestion-jobs?limit=1"))
    tenant.cursor = page["nextCursor"]
    tenant.item_id = (await _ok(client.get("/embedding-jobs?limit=1")))["jobs"][0]["id"]


async def _take(
    client: httpx2.AsyncClient, tenant: Tenant, state: str, *, name: str = "", text: str = "", **fields: str
) -> None:
    content = text or f"{tenant.slug} has a paper about {state}, which is nobody else's.\n" * 3
    response = await client.post(
        "/ingestion-jobs",
        files={"file": (name or f"{tenant.slug}-{state}.txt", content.encode())},
        data={
            "pipeline": "standin",
            "sourceId": f"{tenant.slug}-{state}",
            "metadata": f'{{"owner": "{tenant.slug}"}}',
            "userId": f"{tenant.slug}-user",
            **fields,
        },
        headers={"Idempotency-Key": f"{tenant.slug} {state}"},
    )
    tenant.jobs[state] = await _answer(response)
    if state != "staged":
        await _settled(client, tenant.jobs[state]["jobId"])


async def _settled(client: httpx2.AsyncClient, job_id: str) -> None:
    """Until nothing more happens to it by itself."""
    async with asyncio.timeout(60):
        while True:
            job = await _ok(client.get(f"/ingestion-jobs/{job_id}"))
            if job["status"] not in {"staged", "parsing"} and (
                job["status"] != "embedding_in_progress" or job["pipeline"] == "held"
            ):
                if job["status"] == "failed" and not job["name"].endswith(".pdf"):
                    raise RuntimeError(job)
                if job["status"] != "chunk_preview_ready" or not job["autoLaunch"]:
                    return
            await asyncio.sleep(0.02)


def _finish(url: str, tenant: Tenant) -> None:
    """What waits to be sent is given up, so that nothing of the two changes by itself any more; and what no program
    of ours has written by then: usage of a query, a reservation, an alert."""
    with psycopg.connect(url, autocommit=True) as connection:
        values = {"slug": tenant.slug}
        connection.execute(
            "UPDATE embedmill.webhooks SET is_active = false WHERE tenant_id = "
            "(SELECT id FROM embedmill.tenants WHERE slug = %(slug)s)",
            values,
        )
        connection.execute(
            "UPDATE embedmill.webhook_deliveries SET status = 'failed', ended_at = now() WHERE status = 'pending' "
            "AND tenant_id = (SELECT id FROM embedmill.tenants WHERE slug = %(slug)s)",
            values,
        )
        tenant.alert_id = FIRST_OF_ALPHA + 90_000 if tenant.slug == ALPHA else 9000
        connection.execute(
            "INSERT INTO embedmill.alerts (id, kind, tenant_id, subject, severity, message, began_at, raised_at, "
            "  seen_at, resolved_at) OVERRIDING SYSTEM VALUE "
            "SELECT %(alert_id)s, 'stuck_queue', id, slug, 'critical', 'work of ' || slug || ' waits', now(), now(), "
            "  now(), now() FROM embedmill.tenants WHERE slug = %(slug)s",
            {**values, "alert_id": tenant.alert_id},
        )
        connection.execute(
            "INSERT INTO embedmill.budget_reservations (call_id, budget_id, tenant_id, worker_id, amount_usd) "
            "SELECT gen_random_uuid(), b.id, b.tenant_id, gen_random_uuid(), 0 FROM embedmill.budgets b "
            "JOIN embedmill.tenants t ON t.id = b.tenant_id WHERE t.slug = %(slug)s AND b.job_id IS NULL",
            values,
        )
        connection.execute(
            "INSERT INTO embedmill.audits (tenant_id, is_repair, findings, actor, ended_at) "
            "SELECT id, false, jsonb_build_array(jsonb_build_object('kind', 'done_but_no_vector', 'count', 1, "
            "  'mended', 0, 'examples', jsonb_build_array(jsonb_build_object('id', slug || '-row', 'source', slug)))), "
            "  slug, now() "
            "FROM embedmill.tenants WHERE slug = %(slug)s",
            values,
        )
        connection.execute(
            "INSERT INTO embedmill.batch_ends (tenant_id, batch_id) "
            "SELECT id, gen_random_uuid() FROM embedmill.tenants WHERE slug = %(slug)s",
            values,
        )
        row = connection.execute(
            "SELECT e.xact::text || '-' || e.id FROM embedmill.events e JOIN embedmill.tenants t ON t.id = e.tenant_id "
            "WHERE t.slug = %(slug)s ORDER BY e.xact, e.id LIMIT 1",
            values,
        ).fetchone()
    assert row is not None
    tenant.event_id = row[0]


def _set_sequences(url: str, first: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for (name,) in connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' "
            "AND relnamespace = 'embedmill'::regnamespace"
        ).fetchall():
            connection.execute("SELECT setval(%s, %s)", (name, first))


def _client(one: Serving, tenant: Tenant) -> httpx2.AsyncClient:
    return client_at(f"{one.address}/api/v1", tenant.headers("admin"))


async def _ok(coming: Any) -> dict[str, Any]:
    return await _answer(await coming)


async def _answer(response: httpx2.Response) -> dict[str, Any]:
    if response.status_code >= 300:
        raise RuntimeError(f"{response.request.url}: {response.status_code} {response.text}")
    return dict(response.json())
