"""A PostgreSQL that may be restarted, and a mill on it and the stand-in provider. Each test has its own database."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.faults.mill import Mill, open_mill
from tests.support.faults.postgres import FragileServer
from tests.support.postgres import servers_folder
from tests.support.provider import RunningProvider
from tests.support.work import DIMENSIONS


@pytest.fixture(scope="session")
def fragile_server() -> Iterator[FragileServer]:
    with tempfile.TemporaryDirectory(
        prefix="embedmill-crash-", dir=servers_folder(), ignore_cleanup_errors=True
    ) as folder:
        server = FragileServer(Path(folder) / "data")
        yield server
        server.stop()


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    """A call takes a while."""
    provider_process.reset(dimensions=DIMENSIONS, latency_ms=50)
    return provider_process


@pytest.fixture
async def mill(
    fragile_server: FragileServer, provider: RunningProvider, tmp_path: Path
) -> AsyncIterator[Mill]:
    async with open_mill(fragile_server, provider, tmp_path) as mill:
        yield mill
