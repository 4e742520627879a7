"""The composition root: puts settings, database, adapters and stages together. The only importer of adapters;
must not hold logic of its own."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from embedmill.errors import ConfigurationError, DatabaseUnreachableError
from embedmill.settings import Settings, read_secret

if TYPE_CHECKING:
    from decimal import Decimal

    import psycopg

    from embedmill.core.documents import ChunkPlan
    from embedmill.database.migrator import MigrationReport
    from embedmill.database.pipelines import Pipeline
    from embedmill.database.pool import Database
    from embedmill.embed.building import GenerationBuilder
    from embedmill.embed.columns import ColumnWriter
    from embedmill.embed.direct import DirectEmbedder
    from embedmill.embed.migrating import Migrations, NextGeneration
    from embedmill.embed.next_spec import Changes
    from embedmill.events import Event
    from embedmill.fleet.events import FleetEvent
    from embedmill.fleet.supervisor import Supervisor
    from embedmill.ingest.folder import FolderIngestion
    from embedmill.ingest.parse_runner import ParseRunner
    from embedmill.ingest.parsing import ParserPool
    from embedmill.ingest.parsing_protocol import TokenizerSpec
    from embedmill.ports import Cutter, EmbeddingProvider, Originals, ProviderSpec, Telemetry, WebhookPoster
    from embedmill.queue.sharing import Limit
    from embedmill.search.searcher import Searcher
    from embedmill.sources.auditor import Auditor
    from embedmill.sources.reader import RecordReader
    from embedmill.sources.saving import Saved
    from embedmill.worker.loop import Companion, Worker

_OPENAI_KEYS = ("EMBEDMILL_OPENAI_API_KEY", "OPENAI_API_KEY")


class App:
    """embedmill with its database open. `async with open_app(settings) as app`."""

    def __init__(self, settings: Settings, database: Database, telemetry: Telemetry | None = None) -> None:
        """`telemetry`: of whoever made us; else the first worker opens our own."""
        self.settings = settings
        self.database = database
        self._telemetry = telemetry
        self._owns_telemetry = False

    @property
    def telemetry(self) -> Telemetry:
        """Who is told what happens; nobody, before `measure`."""
        from embedmill.ports import SILENT

        return self._telemetry or SILENT

    def measure(self) -> Telemetry:
        """From now on, count and trace what this process does."""
        if self._telemetry is None:
            self._telemetry = open_telemetry(self.settings)
            self._owns_telemetry = True
        return self._telemetry

    def close(self) -> None:
        """Send what was measured and is not sent yet."""
        if self._telemetry is not None and self._owns_telemetry:
            self._telemetry.close()

    async def tenant_id(self) -> int:
        from embedmill.database.pipelines import tenant_id

        return await tenant_id(self.database, self.settings.tenant)

    async def pipeline(self, name: str) -> Pipeline:
        """The tenant's pipeline of that name; NotFoundError names those that exist."""
        from embedmill.database.pipelines import find_pipeline

        return await find_pipeline(self.database, await self.tenant_id(), name)

    async def create_pipeline(
        self,
        name: str,
        spec: ProviderSpec,
        *,
        explicit: frozenset[str],
        storage: str,
        chunk_plan: ChunkPlan,
        text_search_config: str,
        price_per_million_tokens: Decimal | None,
        calls_per_minute: Limit | None,
        tokens_per_minute: Limit | None,
        quota_key: str | None = None,
    ) -> Pipeline:
        """Make a pipeline, filling in what is known of its model; `explicit` names the fields of the spec that
        a person gave. Pipelines of one `quota_key` share its limits (None: a key of its own). Raises
        ConfigurationError where model, dimensions and chunks do not fit together."""
        from embedmill.adapters.prices import published_price
        from embedmill.adapters.providers.completion import complete_spec
        from embedmill.database.pipelines import NewPipeline, create_pipeline
        from embedmill.queue.sharing import check_shared_key, limits_of_new_pipeline

        complete = complete_spec(spec, explicit, models_dir=self.settings.models_dir)
        await self._assert_chunks_fit(complete, chunk_plan)
        limits = limits_of_new_pipeline(complete, calls_per_minute, tokens_per_minute)
        if quota_key is not None:
            said = calls_per_minute is not None or tokens_per_minute is not None
            await check_shared_key(self.database, quota_key, with_limits=said)
        price = published_price(complete) if price_per_million_tokens is None else price_per_million_tokens
        new = NewPipeline(
            name=name,
            spec=complete,
            storage=storage,
            chunk_plan=chunk_plan,
            text_search_config=text_search_config,
            price_per_million_tokens=price,
            calls_per_minute=limits.calls_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            quota_key=quota_key,
            uses_default_quota=limits.uses_defaults,
        )
        return await create_pipeline(self.database, await self.tenant_id(), new)

    async def next_generation(
        self,
        pipeline: Pipeline,
        changes: Changes,
        *,
        price_per_million_tokens: Decimal | None,
        budget_usd: Decimal | None,
    ) -> NextGeneration:
        """What a pipeline is to become, filled in as a new pipeline is; raises ConfigurationError as
        `create_pipeline`. The price of the same model stays, where none is given."""
        from embedmill.adapters.prices import published_price
        from embedmill.adapters.providers.completion import complete_spec
        from embedmill.embed.migrating import NextGeneration
        from embedmill.embed.next_spec import next_plan, next_spec

        live = pipeline.generation.spec
        spec, explicit = next_spec(live, changes)
        complete = complete_spec(spec, explicit, models_dir=self.settings.models_dir)
        plan = next_plan(pipeline.chunk_plan, changes)
        await self._assert_chunks_fit(complete, plan)
        price = price_per_million_tokens
        if price is None:
            is_same = (complete.provider, complete.model) == (live.provider, live.model)
            price = pipeline.price_per_million_tokens if is_same else published_price(complete)
        return NextGeneration(
            complete, changes.storage or pipeline.generation.storage, plan, price, budget_usd
        )

    async def _assert_chunks_fit(self, spec: ProviderSpec, plan: ChunkPlan) -> None:
        provider = self.provider(spec)
        try:
            longest = provider.limits.max_tokens_per_input
        finally:
            await provider.aclose()
        if plan.max_tokens > longest:
            raise ConfigurationError(
                f"{spec.model} reads at most {longest} tokens of an input: "
                f"--chunk-tokens cannot be {plan.max_tokens}"
            )

    def migrations(self, pipeline: Pipeline, *, actor: str | None = None) -> Migrations:
        """The generations of a pipeline; `actor` is who the audit log names."""
        from embedmill.embed.migrating import Migrations

        return Migrations(self.database, pipeline, actor=actor)

    def generation_builder(
        self, *, pipeline_id: int | None = None, poll_seconds: float = 1.0
    ) -> GenerationBuilder:
        """Goes on with what is being built, of one pipeline or of all."""
        from embedmill.embed.building import GenerationBuilder

        return GenerationBuilder(
            self.database, self.cutter(), pipeline_id=pipeline_id, poll_seconds=poll_seconds
        )

    def provider(self, spec: ProviderSpec) -> EmbeddingProvider:
        return build_provider(self.settings, spec, self._telemetry)

    def searcher(self, pipeline: Pipeline, provider: EmbeddingProvider | None) -> Searcher:
        from embedmill.search.searcher import Searcher

        return Searcher(self.database, pipeline, provider, build_provider=self.provider)

    def worker(
        self, *, on_event: Callable[[Event], None] = lambda event: None, parses: bool = False
    ) -> Worker:
        """A worker of this process; one that `parses` also works off the jobs that wait for a parser, reads the
        sources of records, and goes on with generations that are being built."""
        from embedmill.worker.loop import Worker, WorkerOptions

        telemetry = self.measure()
        options = WorkerOptions(calls_in_flight=self.settings.calls_in_flight)

        def companions(worker_id: UUID) -> list[Companion]:
            if not parses:
                return []
            always: list[Companion] = [
                # What is read is embedded at once, and not at the next poll.
                self.record_reader(worker_id, on_saved=lambda source_id, saved: made.wake()),
                self.generation_builder(),
                self.column_writer(),
                self.auditor(),
            ]
            if not has_service_parts():
                return always
            # Its worker is not made yet.
            return [*always, self.parse_runner(worker_id, on_launched=lambda: made.look())]  # noqa: PLW0108

        made = Worker(
            self.database,
            self.provider,
            options,
            on_event=on_event,
            companions=companions,
            telemetry=telemetry,
        )
        return made

    def parse_runner(self, worker_id: UUID, *, on_launched: Callable[[], None] = lambda: None) -> ParseRunner:
        """Parses staged jobs in the name of a worker; `on_launched` is told when something was enqueued."""
        from embedmill.adapters.outbound.fetcher import GuardedFetcher
        from embedmill.ingest.parse_runner import ParseRunner

        async def embed_directly(pipeline: Pipeline, document_id: int, job_id: UUID) -> None:
            async with self.direct_embedder(
                pipeline, worker_id=worker_id, on_event=lambda event: None
            ) as direct:
                await direct.embed(document_id, job_id)

        return ParseRunner(
            self.database,
            self.parsers(),
            build_originals(self.settings),
            GuardedFetcher(max_bytes=self.settings.max_file_bytes, allowed=self.settings.allowed),
            worker_id=worker_id,
            tokenizer=self.tokenizer,
            embed_directly=embed_directly,
            max_file_bytes=self.settings.max_file_bytes,
            jobs_at_once=self.settings.parser_processes,
            on_launched=on_launched,
            telemetry=self.telemetry,
        )

    def record_reader(
        self,
        worker_id: UUID,
        *,
        source_ids: Sequence[int] | None = None,
        on_saved: Callable[[int, Saved], None] = lambda source_id, saved: None,
    ) -> RecordReader:
        """Reads what has changed in tables and shard feeds, and their backfills, in the name of a worker; `on_saved` is
        told of each batch."""
        from embedmill.sources.reader import RecordReader

        return RecordReader(
            self.database, self.cutter(), worker_id=worker_id, source_ids=source_ids, on_saved=on_saved
        )

    def auditor(self) -> Auditor:
        """Carries out audits that were ordered or are due."""
        from embedmill.sources.auditor import Auditor

        return Auditor(self.database)

    def cutter(self) -> Cutter:
        """Cuts texts in limited processes of its own, until it is closed."""
        from embedmill.ingest.cutting import PoolCutter

        return PoolCutter(self.parsers(), self.tokenizer, self.longest_input)

    async def longest_input(self, spec: ProviderSpec) -> int:
        """How many tokens the model reads of one input."""
        provider = self.provider(spec)
        try:
            return provider.limits.max_tokens_per_input
        finally:
            await provider.aclose()

    def column_writer(self) -> ColumnWriter:
        """Brings vectors into columns of users' tables that did not take them at once."""
        from embedmill.embed.columns import ColumnWriter

        return ColumnWriter(self.database)

    def tokenizer(self, spec: ProviderSpec) -> TokenizerSpec:
        """How the parsing process counts the tokens of a model."""
        from embedmill.ingest.parsing_protocol import TokenizerSpec

        return TokenizerSpec(
            spec.tokenizer, spec.model, spec.provider, models_dir=str(self.settings.models_dir)
        )

    def supervisor(
        self, processes: int | None, *, until_empty: bool, on_event: Callable[[FleetEvent], None]
    ) -> Supervisor:
        """The fleet of this machine: so many worker processes, or as many as the backlog needs (None)."""
        from embedmill.adapters.providers.local import available_cpus
        from embedmill.core.scaling import local_maximum
        from embedmill.fleet.seat import SeatOptions
        from embedmill.fleet.supervisor import Supervisor, SupervisorOptions

        # -P: a file in the folder that we were started in must not stand in for a module.
        command = [sys.executable, "-P", "-m", "embedmill", "worker", "--supervised"]
        options = SupervisorOptions(
            processes,
            local_maximum=local_maximum(processors=available_cpus(), threads=self.settings.local_threads),
            seat=SeatOptions(ends_by_itself=until_empty),
        )
        chance = random.Random()  # noqa: S311 - jitter, no secret
        arguments = ["--until-empty"] if until_empty else []
        return Supervisor(self.database, [*command, *arguments], options, on_event=on_event, chance=chance)

    def parsers(self) -> ParserPool:
        return open_parsers(self.settings)

    def direct_embedder(
        self, pipeline: Pipeline, *, worker_id: UUID, on_event: Callable[[Event], None]
    ) -> DirectEmbedder:
        """For what the queue does not take; `worker_id` is in whose name it pays."""
        from embedmill.embed.direct import DirectEmbedder

        return DirectEmbedder(
            self.database,
            pipeline,
            self.provider,
            worker_id=worker_id,
            on_event=on_event,
            telemetry=self.telemetry,
        )

    def folder_ingestion(
        self,
        pipeline: Pipeline,
        parsers: ParserPool,
        *,
        batch_id: UUID,
        priority: str,
        embed_directly: Callable[[int, UUID], Awaitable[None]],
        on_launched: Callable[[], None] = lambda: None,
    ) -> FolderIngestion:
        """`on_launched` is told when something was enqueued."""
        from embedmill.ingest.folder import FolderIngestion
        from embedmill.ingest.storing import Storing

        return FolderIngestion(
            self.database,
            pipeline,
            parsers,
            Storing(self.database, pipeline, batch_id=batch_id, priority=priority, on_launched=on_launched),
            tokenizer=self.tokenizer,
            max_file_bytes=self.settings.max_file_bytes,
            files_at_once=2 * self.settings.parser_processes,
            embed_directly=embed_directly,
        )


def has_service_parts() -> bool:
    """Whether the extra `service` is installed: without it nothing is ever staged here, nor can be parsed."""
    from importlib.util import find_spec

    return find_spec("obstore") is not None


def build_poster(settings: Settings) -> WebhookPoster:
    from embedmill.adapters.outbound.poster import GuardedPoster

    return GuardedPoster(allowed=settings.allowed)


def build_originals(settings: Settings) -> Originals:
    from embedmill.adapters.blobs.store import build_originals as build

    return build(settings.originals_url, settings.data_dir)


def open_parsers(settings: Settings) -> ParserPool:
    """The limited processes that read documents; use as an async context manager."""
    from embedmill.ingest.parsing import ParserPool

    command = [
        sys.executable,
        "-m",
        "embedmill.adapters.parsers.child",
        "--memory-bytes",
        str(settings.parse_memory_mb * 1024 * 1024),
    ]
    return ParserPool(command, size=settings.parser_processes, deadline_seconds=settings.parse_seconds)


@asynccontextmanager
async def open_app(settings: Settings, url: str, *, max_connections: int = 0) -> AsyncIterator[App]:
    """Open a database that `prepare_database` found."""
    from embedmill.database.pool import Database

    size = max_connections or settings.calls_in_flight + 6
    async with Database(url, max_connections=size) as database:
        app = App(settings, database)
        try:
            yield app
        finally:
            app.close()


def prepare_database(settings: Settings) -> str:
    """The URL of a database whose schema is current, the embedded one where none is named. A database without a
    schema gets it; an older one is brought up to date only where it is embedmill's own: one's own is migrated by
    `embedmill db migrate`, on purpose. Raises DatabaseError with what to do where it cannot be used as it is."""
    from embedmill.database.migrator import assert_current, migrate, schema_version
    from embedmill.errors import SchemaVersionError

    url, connection = _connect(settings)
    with connection:
        try:
            assert_current(connection)
        except SchemaVersionError:
            is_fresh = schema_version(connection) is None
            if not is_fresh and settings.database_url is not None:
                raise
            migrate(connection)
    return url


def migrate_database(settings: Settings) -> MigrationReport:
    """Bring the schema up to date; see `embedmill db migrate`."""
    from embedmill.database.migrator import migrate

    _, connection = _connect(settings)
    with connection:
        return migrate(connection)


def find_database(settings: Settings) -> str:
    """The URL of the database that embedmill uses; it answers when this returns."""
    url, connection = _connect(settings)
    connection.close()
    return url


def _connect(settings: Settings) -> tuple[str, psycopg.Connection[Any]]:
    """One's own database, or the embedded one, started where it is not up."""
    from embedmill.database.pool import connect

    if settings.database_url is not None:
        return settings.database_url, connect(settings.database_url)
    from embedmill.database.embedded import ensure_running

    url = ensure_running(settings.data_dir)
    try:
        return url, connect(url)
    except DatabaseUnreachableError:
        # The file that says it runs was left behind by a kill: look properly.
        url = ensure_running(settings.data_dir, connection_failed=True)
        return url, connect(url)


def stop_database(settings: Settings) -> bool:
    """Stop the embedded database; False where it was not running. Refused for one's own."""
    if settings.database_url is not None:
        raise ConfigurationError("EMBEDMILL_DATABASE_URL names your own database: embedmill does not stop it")
    from embedmill.database.embedded import stop

    return stop(settings.data_dir)


def build_provider(
    settings: Settings, spec: ProviderSpec, telemetry: Telemetry | None = None
) -> EmbeddingProvider:
    """The adapter for a spec, with its key from the environment; `telemetry` is told of each call."""
    from embedmill.adapters.providers import build_provider as build

    provider = build(
        spec,
        api_key=find_api_key(spec),
        models_dir=settings.models_dir,
        threads=settings.local_threads,
    )
    if telemetry is None:
        return provider
    from embedmill.adapters.telemetry.measured_provider import MeasuredProvider

    return MeasuredProvider(provider, spec, telemetry)


def open_telemetry(settings: Settings) -> Telemetry:
    """Who is told what this process does: a file that the machine's service shows to Prometheus, and the collector of
    OpenTelemetry where one is named."""
    from embedmill.adapters.telemetry.opening import open_telemetry as open_

    return open_(settings.metrics_dir)


@contextmanager
def serve_metrics(settings: Settings, host: str, port: int) -> Iterator[int]:
    """The metrics of this machine's processes on a port of their own (0: any that is free), which is given; those of
    the fleet are the service's. Raises ConfigurationError where that cannot be."""
    from embedmill.adapters.telemetry.opening import serve_processes

    with serve_processes(settings.metrics_dir, host, port) as bound:
        yield bound


def find_api_key(spec: ProviderSpec) -> str | None:
    """The key of a pipeline: from the variable that it names, else from the usual ones. OPENAI_API_KEY goes to
    OpenAI only, never to the address of some other server."""
    if spec.api_key_env is not None:
        return read_secret(spec.api_key_env)
    if spec.provider != "openai":
        return None
    names = _OPENAI_KEYS if spec.base_url is None else _OPENAI_KEYS[:1]
    return next((key for name in names if (key := read_secret(name))), None)
