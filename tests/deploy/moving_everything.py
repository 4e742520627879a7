"""A life in which every metric moves: uploads, limits, failures, poison, budgets, webhooks, sources, a dead worker, an
old transaction. Owns the story; must not assert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from embedmill.adapters.telemetry.exposition import Exposition
from embedmill.adapters.telemetry.fleet import Fleet
from embedmill.api.server import listen
from embedmill.app import App, open_app, prepare_database
from embedmill.database.pipelines import Pipeline
from embedmill.queue.administration import pause, resume
from embedmill.queue.config import set_value
from embedmill.service import ServiceApp, open_service
from embedmill.settings import Settings
from embedmill.usage.budgets import remove_tenant_budget, set_tenant_budget
from embedmill.worker.identity import current_identity
from tests.support.provider import RunningProvider
from tests.support.scraping import Samples, scrape
from tests.support.serving import client_at
from tests.support.work import DIMENSIONS, add_document, set_price, stand_in_pipeline

_DEAD_WORKER = """
INSERT INTO embedmill.embedding_queue_workers
    (worker_id, hostname, host_id, pid, pid_started_at, heartbeat_interval_ms, version, drain_requested_at)
VALUES (%s, 'gone', %s, 999999999, 0, 600000, 'test', now())
"""


class Story:
    """`snapshots` are what Prometheus would have read on the way."""

    def __init__(
        self, url: str, app: App, service: ServiceApp, address: str, provider: RunningProvider
    ) -> None:
        self.snapshots: list[Samples] = []
        self._url = url
        self._app = app
        self._service = service
        self._address = address
        self._provider = provider
        self._closing = AsyncExitStack()
        self._client = client_at(f"{address}/api/v1")

    async def tell(self) -> None:
        async with self._client, self._closing:
            await self.look()
            pipeline = await self._take_in()
            with self._old_transaction():
                await self._embed(pipeline)
                await self._spend(pipeline)
                await self._be_limited(pipeline)
                await self._app.database.fetch("ANALYZE embedmill.embedding_queue")
                await self.look()
            await self._call_webhooks()
            await self._switch(pipeline)

    async def look(self) -> Samples:
        await self._app.database.fetch("SELECT embedmill.fold_queue_changes() + embedmill.fold_usage()")
        self.snapshots.append(await scrape(self._client, self._address))
        return self.snapshots[-1]

    async def until(self, metric: str, is_so: Callable[[float], bool], **labels: str) -> None:
        """Look until a metric is as it should be."""
        async with asyncio.timeout(60):
            while True:
                samples = await self.look()
                found = [
                    v
                    for (name, its), v in samples.items()
                    if name == metric and labels.items() <= dict(its).items()
                ]
                if found and is_so(sum(found)):
                    return
                await asyncio.sleep(0.1)

    async def _take_in(self) -> Pipeline:
        pipeline = await stand_in_pipeline(
            self._app,
            self._provider.base_url,
            dimensions=DIMENSIONS,
            max_inputs_per_call=4,
            timeout_seconds=2.0,
            calls_per_minute=6000,
            tokens_per_minute=1_000_000,
            price_per_million_tokens=1000,
        )
        for url in (f"{self._provider.base_url}/no-such-hook", f"{await self._gone()}/gone"):
            response = await self._client.post("/webhooks", json={"url": url})
            assert response.status_code == 201, response.text
        upload = {"pipeline": "standin", "autoLaunch": "true"}
        response = await self._client.post(
            "/ingestion-jobs", files={"file": ("wheat.txt", b"Wheat is ground in a mill.")}, data=upload
        )
        assert response.status_code == 202, response.text
        shard = {"content": "Rye is ground as well.", "metadata": {}}
        response = await self._client.put("/shards/articles/a", json=shard, params={"pipeline": "standin"})
        assert response.status_code == 200, response.text
        texts = [f"grain number {n}" for n in range(12)]
        await add_document(self._app, pipeline, "grains", texts)
        await add_document(self._app, pipeline, "poisoned", ["barley", "POISON in the barley"])
        await self.look()
        dead = uuid4()
        await self._app.database.fetch(_DEAD_WORKER, [dead, current_identity().host_id])
        await self._app.database.fetch(
            "SELECT embedmill.claim_items(%s, %s, 1, 1, 1000, 600)", [dead, pipeline.generation.id]
        )
        await self.look()
        return pipeline

    async def _gone(self) -> str:
        """A server that answers 410 to everybody."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        self._closing.callback(server.close)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _embed(self, pipeline: Pipeline) -> None:
        """Limits, failures and poison on the way; all that can be embedded is."""
        faults = ["429", "500", "nan", "500", "500", "500"]
        self._provider.configure(poison="POISON", faults=faults, retry_after_seconds=0.05)
        async with self._working():
            await self.until("embedmill_dead_letters", lambda v: v > 0)
            await self.until("embedmill_queue_items", lambda v: v == 0)
            await add_document(self._app, pipeline, "copies", ["grain number 1", "grain number 2"])
            await self.until("embedmill_vectors_reused_total", lambda v: v >= 2)
            await set_price(self._app, None)
            await add_document(self._app, pipeline, "unpriced", ["nobody knows what this costs"])
            await self.until("embedmill_usage_unpriced_calls_total", lambda v: v > 0)
            await set_price(self._app, 1000)

    async def _spend(self, pipeline: Pipeline) -> None:
        await set_tenant_budget(self._app.database, pipeline.tenant_id, "0.0001")
        await add_document(self._app, pipeline, "too dear", [f"a dear text {n}" for n in range(40)])
        async with self._working():
            await self.until("embedmill_budgets_reached", lambda v: v == 1)
        await remove_tenant_budget(self._app.database, pipeline.tenant_id)

    async def _be_limited(self, pipeline: Pipeline) -> None:
        """The provider refuses the key, then asks to wait for an hour."""
        self._provider.configure(api_key="another")
        async with self._working():
            await self.until("embedmill_worker_troubled_pipelines", lambda v: v == 1)
        await self.look()
        self._provider.configure(api_key=None, faults=["429"] * 20, retry_after_seconds=3600.0)
        await self._app.database.fetch("UPDATE embedmill.embedding_queue SET available_at = now()")
        async with self._working():
            await self.until("embedmill_queue_items", lambda v: v > 0, status="rate_limited")
            await self.until("embedmill_quotas_exhausted", lambda v: v == 1)
        self._provider.configure(faults=[])

    async def _call_webhooks(self) -> None:
        chores = self._service.chores()
        async with asyncio.TaskGroup() as tasks:
            for chore in chores:
                tasks.create_task(chore.run())
            await self.until("embedmill_webhook_calls_total", lambda v: v > 0, outcome="failed")
            await self.until("embedmill_webhook_calls_total", lambda v: v > 0, outcome="waiting")
            await self.until("embedmill_webhooks", lambda v: v == 1, state="disabled")
            for chore in chores:
                chore.stop()

    async def _switch(self, pipeline: Pipeline) -> None:
        database = self._app.database
        await pause(database, pipeline.tenant_id, "standin", actor="test")
        await set_value(database, "queue_enabled", "false", actor="test")
        await self.look()
        await set_value(database, "queue_enabled", "true", actor="test")
        await resume(database, pipeline.tenant_id, "standin", actor="test")
        await self.look()

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        worker = self._app.worker(parses=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())
            try:
                yield
            finally:
                worker.stop()

    @contextmanager
    def _old_transaction(self) -> Any:
        with psycopg.connect(self._url) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM embedmill.tenants")
            yield


async def tell_story(url: str, folder: Path, provider: RunningProvider) -> list[Samples]:
    """Everything happens once; what was read of it."""
    settings = Settings(
        database_url=url, data_dir=folder, parser_processes=1, allowed_hosts="127.0.0.1", calls_in_flight=2
    )
    async with (
        open_app(settings, prepare_database(settings)) as app,
        open_service(settings, url) as service,
        asyncio.TaskGroup() as tasks,
    ):
        service.metrics = Exposition(settings.metrics_dir, Fleet(service.operator, kept_seconds=0.0))
        listener = await listen(service, "127.0.0.1", 0)
        tasks.create_task(listener.run())
        story = Story(url, app, service, listener.address, provider)
        try:
            await story.tell()
        finally:
            listener.stop()
    return story.snapshots
