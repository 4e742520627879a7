"""GET /metrics: who may see it, what it tells of the fleet and of this service's requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from psycopg import sql

from embedmill.access.keys import Role
from tests.support.postgres import with_database
from tests.support.scraping import scrape, value
from tests.support.serving import Serving


@contextmanager
def database_away(url: str) -> Iterator[None]:
    """Sessions are ended, and new ones refused."""
    name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(url)["dbname"] or "")
    with psycopg.connect(with_database(url, "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            [psycopg.conninfo.conninfo_to_dict(url)["dbname"]],
        )
        try:
            yield
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


async def test_without_keys_this_machine_sees_it_and_no_other_name_does(idle_service: Serving) -> None:
    samples = await scrape(idle_service.client, idle_service.address)
    assert value(samples, "embedmill_database_up") == 1
    assert value(samples, "embedmill_queue_enabled") == 1
    stranger = await idle_service.client.get(
        f"{idle_service.address}/metrics", headers={"Host": "evil.example"}
    )
    assert stranger.status_code == 403


@pytest.mark.parametrize("role", list(Role))
async def test_with_keys_only_an_operator_sees_it(idle_service: Serving, role: Role) -> None:
    client = await idle_service.client_of(role)
    response = await client.get(f"{idle_service.address}/metrics")
    assert response.status_code == (200 if role is Role.OPERATOR else 403)


async def test_once_keys_are_in_use_nobody_sees_it_without_one(idle_service: Serving) -> None:
    await idle_service.client_of(Role.READER)
    for headers in ({}, {"Authorization": "Bearer em_wrong"}):
        response = await idle_service.client.get(f"{idle_service.address}/metrics", headers=headers)
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"


async def test_an_operator_sees_the_processes_also_while_the_database_is_away(
    idle_service: Serving, database: str
) -> None:
    operator = await idle_service.client_of(Role.OPERATOR)
    await scrape(operator, idle_service.address)

    reader = await idle_service.client_of(Role.READER)
    with database_away(database):
        async with asyncio.timeout(20):
            while value(samples := await scrape(operator, idle_service.address), "embedmill_database_up"):
                await asyncio.sleep(0.1)  # a reading is kept for a moment
        refused = await reader.get(f"{idle_service.address}/metrics")
    assert value(samples, "embedmill_database_up") == 0
    assert value(samples, "embedmill_http_requests_total", route="/metrics", status="200") >= 1
    assert not any(name == "embedmill_queue_items" for name, _ in samples)
    assert refused.status_code == 503


async def test_requests_are_counted_by_route_and_status_and_never_by_address(idle_service: Serving) -> None:
    job = "0f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    await idle_service.client.get(f"/ingestion-jobs/{job}")
    await idle_service.client.get("/no-such-page-canary")
    await idle_service.client.request("BREW", "/pipelines")
    samples = await scrape(idle_service.client, idle_service.address)
    route = "/api/v1/ingestion-jobs/{jobId}"
    assert value(samples, "embedmill_http_requests_total", method="GET", route=route, status="404") == 1
    assert value(samples, "embedmill_http_request_duration_seconds_count", route=route) == 1
    assert value(samples, "embedmill_http_requests_total", method="GET", route="unmatched") == 1
    assert value(samples, "embedmill_http_requests_total", method="other") == 1
    text = (await idle_service.client.get(f"{idle_service.address}/metrics")).text
    assert job not in text
    assert "canary" not in text
    assert "BREW" not in text


async def test_openmetrics_is_given_to_whoever_asks_for_it(idle_service: Serving) -> None:
    response = await idle_service.client.get(
        f"{idle_service.address}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert "embedmill_queue_items" in {family.name for family in open_families(response.text)}


async def test_many_scrapes_at_once_read_the_database_once(idle_service: Serving) -> None:
    fleet = idle_service.service.metrics._fleet
    first = await fleet.read()
    assert await fleet.read() is first


async def test_the_page_is_not_part_of_the_described_api(idle_service: Serving) -> None:
    described = await idle_service.client.get(f"{idle_service.address}/openapi.json")
    assert "/metrics" not in described.json()["paths"]
