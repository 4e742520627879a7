"""Logs as the command writes them, and a pipeline on the service of each test."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from embedmill.database.pipelines import Pipeline
from embedmill.logs import configure_logs
from embedmill.settings import Settings
from tests.api.two_tenants import TwoTenants
from tests.api.two_tenants_making import make_two_tenants, owned_database
from tests.support.postgres import TestServer, with_database
from tests.support.provider import RunningProvider
from tests.support.serving import Serving
from tests.support.work import DIMENSIONS, stand_in_pipeline


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """As the command sets them up: unconfigured, structlog paints each error with all local variables, for minutes."""
    configure_logs(Settings())


@pytest.fixture
async def pipeline(service: Serving, provider: RunningProvider) -> Pipeline:
    """`standin`, on the counting provider, at a dollar for a million tokens."""
    return await stand_in_pipeline(
        service.app, provider.base_url, dimensions=DIMENSIONS, price_per_million_tokens=1
    )


@pytest.fixture(scope="session")
def seeded(
    test_server: TestServer, provider_process: RunningProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoTenants]:
    """Two tenants, made once; nobody may write to their database."""
    with owned_database(test_server) as (url, admin_url):
        folder = tmp_path_factory.mktemp("two_tenants")
        yield asyncio.run(make_two_tenants(url, admin_url, folder, provider_process))


@pytest.fixture
def two(test_server: TestServer, seeded: TwoTenants, tmp_path: Path) -> Iterator[TwoTenants]:
    """The two in a database and a folder of this test's own."""
    folder = tmp_path / "data"
    shutil.copytree(seeded.folder, folder)
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(test_server.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(urlsplit(seeded.url).path.lstrip("/"))
            )
        )
    admin_url = with_database(test_server.url, name)
    yield replace(seeded, url=with_database(seeded.url, name), admin_url=admin_url, folder=folder)
    test_server.drop(admin_url)
