"""The composition root of the service: what lives as long as its process. Owns how databases, originals, providers and
chores are put together; must not know an endpoint or a page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from embedmill.access.pepper import read_pepper
from embedmill.adapters.telemetry.exposition import Exposition
from embedmill.adapters.telemetry.fleet import Fleet
from embedmill.app import App, build_originals, build_poster, build_provider, open_telemetry
from embedmill.database.pipelines import Pipeline, tenant_id
from embedmill.database.pool import SERVICE_ROLE, Database, assert_service_role
from embedmill.errors import EmbedmillError
from embedmill.ingest.originals_sweep import OriginalsSweep
from embedmill.ports import EmbeddingProvider, ProviderSpec, Telemetry
from embedmill.queue.alert_watch import AlertWatch
from embedmill.queue.running_acts import RunningActs
from embedmill.search.searcher import Searcher
from embedmill.settings import Settings
from embedmill.webhooks.sender import WebhookSender
from embedmill.webhooks.signing import WebhookSecrets
from embedmill.worker.loop import Companion
from embedmill.worker.stint import CALLS_IN_FLIGHT, Stint, StintBounds, StintReport
from embedmill.worker.stints import Stints


class ServiceApp:
    """embedmill as a service: `database` sees only the tenant that it is asked for, `operator` all of them, for what
    belongs to none. `async with open_service(settings, url) as service`."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        operator: Database,
        pepper: bytes,
        telemetry: Telemetry,
    ) -> None:
        self.settings = settings
        self.database = database
        self.operator = operator
        self.pepper = pepper
        self.telemetry = telemetry
        self.metrics = Exposition(settings.metrics_dir, Fleet(operator))
        self.originals = build_originals(settings)
        self.poster = build_poster(settings)
        self.webhook_secrets = WebhookSecrets(pepper)
        self.stopping = asyncio.Event()
        """Set when the service begins to stop: streams end."""
        self.stints = Stints()
        self.acts = RunningActs()
        self._providers: dict[str, EmbeddingProvider] = {}
        self._originals_state = "ok"
        self._checked_at = float("-inf")

    async def tenant_id(self) -> int:
        """The tenant of whoever needs no key."""
        return await tenant_id(self.operator, self.settings.tenant)

    async def originals_state(self) -> str:
        """ "ok", or why uploads cannot be kept. Found out by writing, so at most every ten seconds."""
        now = time.monotonic()
        if now - self._checked_at > 10.0:
            self._checked_at = now
            try:
                await self.originals.check()
                self._originals_state = "ok"
            except EmbedmillError as error:
                self._originals_state = str(error)
        return self._originals_state

    def chores(self) -> list[Companion]:
        """What a service does besides answering, each until its `stop()`."""
        return [
            WebhookSender(self.operator, self.poster, self.webhook_secrets, telemetry=self.telemetry),
            OriginalsSweep(self.operator, self.originals),
            AlertWatch(self.operator, self.settings.tenant, self.originals_state),
        ]

    def searcher(self, database: Database, pipeline: Pipeline, *, by_vector: bool) -> Searcher:
        """For one pipeline of a tenant's. Providers are kept: their connections and models are warm."""
        provider = self._provider(pipeline.generation.spec) if by_vector else None
        return Searcher(database, pipeline, provider, build_provider=self._provider)

    def _provider(self, spec: ProviderSpec) -> EmbeddingProvider:
        key = repr(spec)
        if key not in self._providers:
            self._providers[key] = build_provider(self.settings, spec, self.telemetry)
        return self._providers[key]

    async def process_queue(self, tenant_id: int, bounds: StintBounds) -> StintReport:
        """Read and embed so much of a tenant's, in this process; it ends early, in order, when the service stops.
        Raises ConflictError where that tenant has one at work here."""
        return await self.stints.run(tenant_id, lambda: self._work_for(tenant_id, bounds))

    async def _work_for(self, tenant_id: int, bounds: StintBounds) -> StintReport:
        async with Database(self.operator.url, max_connections=CALLS_IN_FLIGHT + 4) as database:
            app = App(self.settings, database, self.telemetry)
            stint = Stint(
                database,
                tenant_id,
                bounds,
                build_provider=app.provider,
                cutter=app.cutter,
                until=self.stopping,
                telemetry=self.telemetry,
            )
            return await stint.run()

    async def aclose(self) -> None:
        self.stopping.set()
        await self.acts.settle()
        await self.stints.settle()
        for provider in self._providers.values():
            await provider.aclose()
        await asyncio.to_thread(self.telemetry.close)


@asynccontextmanager
async def open_service(settings: Settings, url: str) -> AsyncIterator[ServiceApp]:
    """The service on a database that `prepare_database` found. Raises ConfigurationError where the role that sees one
    tenant only is missing: without it nothing is served."""
    role = SERVICE_ROLE if settings.service_database_url is None else None
    async with (
        Database(
            settings.service_database_url or url, max_connections=12, role=role, wait_seconds=5.0
        ) as database,
        Database(url, max_connections=4, wait_seconds=5.0) as operator,
    ):
        await assert_service_role(operator, database)
        service = ServiceApp(
            settings, database, operator, read_pepper(settings.data_dir), open_telemetry(settings)
        )
        try:
            yield service
        finally:
            await service.aclose()
