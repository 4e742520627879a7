"""A service in this process: real sockets, a real database, workers in the same loop. Owns its start and its end; must
not assert."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from embedmill.access.keys import Role, create_key
from embedmill.api.server import Listener, listen
from embedmill.app import App, open_app, prepare_database
from embedmill.dashboard.application import add_dashboard
from embedmill.service import ServiceApp, open_service
from embedmill.settings import Settings

ENDED = {"completed", "failed", "cancelled"}
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client_at(base_url: str, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """A client over plain HTTP: without the certificates of the machine, which take longer to read than most tests
    take to ask."""
    return httpx2.AsyncClient(
        base_url=base_url, headers=headers, timeout=60, trust_env=False, verify=_NO_CERTIFICATES
    )


class Serving:
    """`client` speaks for whoever needs no key; `client_of(role, tenant)` for somebody with one."""

    def __init__(self, app: App, service: ServiceApp, listener: Listener, stack: AsyncExitStack) -> None:
        self.app = app
        self.service = service
        self.address = listener.address
        self._stack = stack
        self.client = client_at(f"{self.address}/api/v1")

    async def client_of(self, role: Role, tenant: str = "default") -> httpx2.AsyncClient:
        """A client with a new key."""
        made = await create_key(
            self.service.operator,
            self.service.pepper,
            tenant=tenant,
            role=role,
            name="test",
            expires_in_seconds=None,
            actor="test",
        )
        client = client_at(f"{self.address}/api/v1", {"Authorization": f"Bearer {made.secret}"})
        return await self._stack.enter_async_context(client)

    async def upload(self, name: str, content: bytes, **fields: str) -> dict[str, Any]:
        """Upload one file; the answer."""
        response = await self.client.post("/ingestion-jobs", files={"file": (name, content)}, data=fields)
        assert response.status_code == 202, response.text
        return dict(response.json())

    async def job(self, job_id: str) -> dict[str, Any]:
        response = await self.client.get(f"/ingestion-jobs/{job_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def until(self, job_id: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """The job when it has come to one of these states, or to its end."""
        async with asyncio.timeout(seconds):
            while True:
                job = await self.job(job_id)
                if job["status"] in (statuses or ENDED) or job["status"] in ENDED:
                    return job
                await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(
    url: str, folder: Path, *, works: bool = True, **settings: object
) -> AsyncIterator[Serving]:
    """The service on a test database, and a worker beside it where it `works`."""
    chosen = Settings(database_url=url, data_dir=folder, parser_processes=1)
    chosen = msgspec.structs.replace(chosen, **settings)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(open_app(chosen, prepare_database(chosen)))
        service = await stack.enter_async_context(open_service(chosen, url))
        listener = await listen(service, "127.0.0.1", 0, furnish=add_dashboard)
        one = Serving(app, service, listener, stack)
        await stack.enter_async_context(one.client)
        worker = app.worker(parses=True) if works else None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listener.run())
            chores = service.chores()
            for chore in chores:
                tasks.create_task(chore.run())
            if worker is not None:
                tasks.create_task(worker.run())
            try:
                yield one
            finally:
                listener.stop()
                for chore in chores:
                    chore.stop()
                if worker is not None:
                    worker.stop()
