"""Two tenants of one service: whatever beta asks for with its own keys, it is told nothing of alpha, and changes nothing
that is alpha's. Every operation that the service describes is tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest

from tests.api.operations import LEAST_ROLE, STREAMS, Attempt, attempts, operations_of
from tests.api.two_tenants import (
    ALPHA,
    BETA,
    Secrets,
    Tenant,
    TwoTenants,
    originals_of,
    rows_of,
    seeded,
    two,
)
from tests.support.serving import Serving, serving

__all__ = ["seeded", "two"]
ROLES = ("reader", "writer", "admin")


@pytest.fixture
async def service(two: TwoTenants) -> AsyncIterator[Serving]:
    """Nobody works, so that nothing changes by itself."""
    async with serving(two.url, two.folder, works=False, allowed_hosts="127.0.0.1") as one:
        yield one


def client_of(service: Serving, tenant: Tenant, role: str = "admin") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=service.address, headers=tenant.headers(role), timeout=60, trust_env=False
    )


async def described(service: Serving) -> set[str]:
    return operations_of((await service.client.get(f"{service.address}/openapi.json")).json())


async def send(client: httpx2.AsyncClient, attempt: Attempt) -> httpx2.Response:
    return await client.request(attempt.method, attempt.path, **attempt.sent)


def shown(response: httpx2.Response) -> str:
    return f"{dict(response.headers)} {response.text}"


async def test_every_operation_is_in_the_table_of_roles(service: Serving) -> None:
    assert await described(service) == set(LEAST_ROLE)


async def test_no_operation_tells_or_changes_anything_of_another_tenant(
    service: Serving, two: TwoTenants
) -> None:
    before, originals = rows_of(two, ALPHA), originals_of(two, ALPHA)
    secrets = Secrets(two)
    tried = 0
    # Uploads come last: what beta says in them is told back to it from then on.
    operations = sorted(await described(service) - STREAMS, key=lambda each: each.endswith("v1/ingestion-jobs"))
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


@pytest.mark.parametrize("operation", sorted(LEAST_ROLE))
def test_a_key_may_do_what_its_role_allows_and_nothing_more(operation: str, roles: Roles) -> None:
    answers = roles.answers(operation)
    least = LEAST_ROLE[operation]
    if least is None:
        assert set(answers.values()) <= {200}
        return
    assert answers["no key"] == (401, "not_authenticated")
    for role in ROLES:
        may = ROLES.index(role) >= ROLES.index(least)
        status, code = answers[role]
        assert (code == "not_allowed") != may, (role, answers)
        assert (status == 403) != may, (role, answers)
