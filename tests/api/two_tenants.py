"""Two tenants, each with everything that a tenant can have: alpha, whose rows nobody else may see, and beta, who tries.
Owns their making and what of alpha must not be seen; must not assert.

All numbers of alpha begin at 900,000,000 and all its texts hold its name, so that whatever leaks is known when it is
seen. The database belongs to an account that is no superuser, whom row-level security binds as well.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import psycopg
import pytest
from psycopg import sql

from embedmill.access.keys import Role
from embedmill.app import App
from embedmill.database import migrator
from embedmill.queue.sharing import create_tenant
from tests.api.conftest import DIMENSIONS
from tests.support.postgres import TestServer, with_database
from tests.support.provider import RunningProvider
from tests.support.serving import Serving, serving
from tests.support.work import stand_in_pipeline

ALPHA, BETA = "alpha", "beta"
FIRST_OF_ALPHA = 900_000_000
_NUMBER = re.compile(r"(?<![0-9])9000[0-9]{5}(?![0-9])")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CLOSED_PORT = "http://127.0.0.1:64999/hook"
"""Nobody listens there: deliveries fail at once."""


@dataclass
class Tenant:
    """`jobs` by their state; `keys` by their role."""

    slug: str
    keys: dict[str, str] = field(default_factory=dict)
    key_ids: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_id: str = ""
    webhook_id: str = ""
    delivery_id: str = ""
    item_id: int = 0
    cursor: str = ""
    """A cursor of its list of jobs."""
    event_id: str = ""
    """The id of an event, as its stream tells it."""

    def headers(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role]}"}


@dataclass(frozen=True)
class TwoTenants:
    """The database that they stand in, as its owner and as the server's administrator; the service's folder with its
    originals and its pepper."""

    url: str
    admin_url: str
    folder: Path
    alpha: Tenant
    beta: Tenant


_made: dict[str, TwoTenants] = {}


@pytest.fixture(scope="session")
def seeded(
    test_server: TestServer, provider_process: RunningProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoTenants]:
    """The two, made once for all modules that import this fixture; nobody may write to their database."""
    if test_server.url in _made:
        yield _made[test_server.url]
        return
    with _owned_database(test_server) as (url, admin_url):
        folder = tmp_path_factory.mktemp("two_tenants")
        _made[test_server.url] = asyncio.run(make_two_tenants(url, admin_url, folder, provider_process))
        yield _made.pop(test_server.url)


@pytest.fixture
def two(test_server: TestServer, seeded: TwoTenants, tmp_path: Path) -> Iterator[TwoTenants]:
    """The two in a database and a folder of this test's own."""
    folder = tmp_path / "data"
    shutil.copytree(seeded.folder, folder)
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(test_server.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(urlsplit(seeded.url).path.lstrip("/"))
            )
        )
    admin_url = with_database(test_server.url, name)
    yield replace(seeded, url=with_database(seeded.url, name), admin_url=admin_url, folder=folder)
    test_server.drop(admin_url)


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
def _owned_database(server: TestServer) -> Iterator[tuple[str, str]]:
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
    async with serving(url, folder, works=False) as one:
        for slug, first in ((BETA, 5000), (ALPHA, FIRST_OF_ALPHA + 50_000)):
            _set_sequences(url, first)
            # Nobody parses here: these two stay as they were taken in.
            async with _client(one, tenants[slug]) as client:
                await _take(client, tenants[slug], "staged")
        _set_sequences(url, 600_000_000)
    return TwoTenants(url, admin_url, folder, tenants[ALPHA], tenants[BETA])


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
                if job["status"] == "chunk_preview_ready" and job["autoLaunch"]:
                    continue
                if job["status"] == "failed" and not job["name"].endswith(".pdf"):
                    raise RuntimeError(job)
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
        connection.execute(
            "INSERT INTO embedmill.budget_reservations (call_id, budget_id, tenant_id, worker_id, amount_usd) "
            "SELECT gen_random_uuid(), b.id, b.tenant_id, gen_random_uuid(), 0 FROM embedmill.budgets b "
            "JOIN embedmill.tenants t ON t.id = b.tenant_id WHERE t.slug = %(slug)s AND b.job_id IS NULL",
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


def tables_of_tenants(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables, but for partitions, that have a tenant_id."""
    return [
        row[0]
        for row in connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE c.relnamespace = 'embedmill'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition "
            "AND a.attname = 'tenant_id' AND NOT a.attisdropped ORDER BY 1"
        )
    ]


def rows_of(two: TwoTenants, slug: str) -> dict[str, list[str]]:
    """Every row of a tenant, as JSON, by its table; the vectors of its generations as well."""
    found = {}
    with psycopg.connect(two.admin_url, autocommit=True) as connection:
        tenant = connection.execute("SELECT id FROM embedmill.tenants WHERE slug = %s", (slug,)).fetchone()
        assert tenant is not None
        queries = {
            name: sql.SQL(
                "SELECT (to_jsonb(t) - 'last_used_at')::text FROM embedmill.{} t WHERE tenant_id = %s"
            ).format(sql.Identifier(name))
            for name in tables_of_tenants(connection)
        }
        queries["tenants"] = sql.SQL("SELECT to_jsonb(t)::text FROM embedmill.tenants t WHERE id = %s")
        for (generation,) in connection.execute(
            "SELECT id FROM embedmill.generations WHERE tenant_id = %s", tenant
        ).fetchall():
            name = f"vectors_{generation}"
            queries[name] = sql.SQL("SELECT to_jsonb(t)::text FROM embedmill.{} t WHERE %s > 0").format(
                sql.Identifier(name)
            )
        for name, query in queries.items():
            found[name] = sorted(row[0] for row in connection.execute(query, tenant))
    return found


def originals_of(two: TwoTenants, slug: str) -> list[str]:
    """The files of a tenant's originals."""
    with psycopg.connect(two.admin_url, autocommit=True) as connection:
        row = connection.execute("SELECT id FROM embedmill.tenants WHERE slug = %s", (slug,)).fetchone()
    assert row is not None
    folder = two.folder / "originals" / "tenants" / str(row[0])
    return sorted(f"{path} {path.stat().st_size}" for path in folder.rglob("*") if path.is_file())


class Secrets:
    """What of a tenant nobody else may see: its name, its numbers, its ids."""

    def __init__(self, two: TwoTenants) -> None:
        ids = set(_UUID.findall(str(rows_of(two, ALPHA))))
        # Workers serve both of them.
        self._ids = ids - set(_UUID.findall(str(rows_of(two, BETA))))

    def in_text(self, text: str, *, said: str = "") -> list[str]:
        """What of it stands in a text, but for what the asker `said` himself."""
        found = {ALPHA} if ALPHA in text.lower() else set()
        found |= set(_NUMBER.findall(text)) | (self._ids & set(_UUID.findall(text.lower())))
        return sorted(each for each in found if each not in said)


def _client(one: Serving, tenant: Tenant) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=f"{one.address}/api/v1", headers=tenant.headers("admin"), timeout=60, trust_env=False
    )


async def _ok(coming: Any) -> dict[str, Any]:
    return await _answer(await coming)


async def _answer(response: httpx2.Response) -> dict[str, Any]:
    if response.status_code >= 300:
        raise RuntimeError(f"{response.request.url}: {response.status_code} {response.text}")
    return dict(response.json())
