"""A PostgreSQL that may be restarted, the stand-in provider, and a mill on both. Each test has its own database."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.faults.mill import DIMENSIONS, Mill, open_mill
from tests.support.faults.postgres import FragileServer
from tests.support.provider import RunningProvider, start_provider


@pytest.fixture(scope="session")
def fragile_server() -> Iterator[FragileServer]:
    with tempfile.TemporaryDirectory(prefix="embedmill-crash-", ignore_cleanup_errors=True) as folder:
        server = FragileServer(Path(folder) / "data")
        yield server
        server.stop()


@pytest.fixture(scope="session")
def provider_process() -> Iterator[RunningProvider]:
    with start_provider(dimensions=DIMENSIONS) as provider:
        yield provider


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    """With its default options and counts of nothing; a call takes a while."""
    provider_process.reset(dimensions=DIMENSIONS, latency_ms=50)
    return provider_process


@pytest_asyncio.fixture
async def mill(
    fragile_server: FragileServer, provider: RunningProvider, tmp_path: Path
) -> AsyncIterator[Mill]:
    async with open_mill(fragile_server, provider, tmp_path) as mill:
        yield mill
