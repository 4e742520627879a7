"""An audit: looks through everything of a tenant, a pipeline or a source for what fails in silence, and sets it right
where that is wanted. Owns the order of the steps and that one that is cut off goes on; what a step looks for stands in
audit_documents.py, audit_records.py and audit_upkeep.py.

    leases, leftovers, triggers      first: what holds others up, and what would go unseen from here on
    vectors, documents, rows         the walks, by keyset in small batches
    counters                         last, when all that they count was set right
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import psycopg
import structlog

from embedmill.database.pipelines import pipeline_by_id
from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.sources.audit_documents import PipelineAudit
from embedmill.sources.audit_kinds import Example, Finding
from embedmill.sources.audit_records import SourceAudit
from embedmill.sources.audit_upkeep import UpkeepAudit
from embedmill.sources.audit_work import AuditWork, Step
from embedmill.sources.audits import AuditRecord, HeldAudit
from embedmill.sources.catalog import record_source, told

_SQL = load_queries("embedmill.sources", "audit.sql")
_log = structlog.get_logger(__name__)


class AuditProgress(msgspec.Struct, frozen=True):
    """How far an audit has come: which step of how many, and what was found."""

    step: str
    step_number: int
    steps: int
    looked: int
    findings: list[Finding]


class Audit:
    """Carries one audit out."""

    def __init__(
        self,
        database: Database,
        held: HeldAudit,
        *,
        rest: Callable[[float], Awaitable[None]] | None = None,
        on_progress: Callable[[AuditProgress], None] = lambda progress: None,
    ) -> None:
        """`rest` is awaited after each batch with the seconds that it took, by whoever must not compete."""
        self._database = database
        self._held = held
        self._work = AuditWork(database, held)
        self._upkeep = UpkeepAudit(self._work)
        self._rest = rest
        self._on_progress = on_progress

    async def run(self) -> AuditRecord:
        """To the end; the audit as it stands then. Raises AuditLostError where somebody else carries it out by now."""
        steps = await self._plan()
        for number, (name, step) in enumerate(steps, start=1):
            if name in self._held.done_steps:
                continue
            await self._walk(name, step, number, len(steps))
            self._held.done_steps.append(name)
            await self._held.save(None, None)
        return await self._held.end()

    async def _walk(self, name: str, step: Step, number: int, steps: int) -> None:
        # A record says where its own step was cut off.
        record = self._held.record
        cursor = record.cursor if record.step == name else None
        self._work.begin(name)
        clock = asyncio.get_running_loop().time
        began = clock()
        self._tell(name, number, steps)
        try:
            async for _ in step(cursor):
                self._tell(name, number, steps)
                if self._rest is not None:
                    await self._rest(clock() - began)
                began = clock()
        except (psycopg.ProgrammingError, psycopg.DataError, ConfigurationError, NotFoundError) as error:
            await self._give_up(name, error)

    async def _give_up(self, name: str, error: Exception) -> None:
        """A source that cannot be read ends its own step only."""
        kind, _, number = name.partition(":")
        if kind not in {"rows", "records", "numbers"}:
            raise error
        message = told(error) if isinstance(error, psycopg.Error) else str(error)
        _log.warning("source cannot be audited", record_source_id=int(number), error=message)
        sources = dict(await self._database.fetch(_SQL["sources"], self._asked()))
        source = sources.get(int(number))
        if source is not None and not self._is_told(source):
            self._work.note("source_not_watched", Example(source, source, detail=message))
            await self._held.save(None, None)

    def _is_told(self, source: str) -> bool:
        return any(
            example.id == source
            for finding in self._held.findings.all()
            if finding.kind == "source_not_watched" and finding.count > finding.mended
            for example in finding.examples
        )

    async def _plan(self) -> list[tuple[str, Step]]:
        """Every step of the scope. What was made since is looked at the next time, what is gone is left out."""
        is_whole = self._work.scope.pipeline_id is None and self._work.scope.record_source_id is None
        sources = await self._database.fetch(_SQL["sources"], self._asked())
        first = self._upkeep.steps() if is_whole else []
        first += [self._upkeep.watch_step(source_id, name) for source_id, name in sources]
        walks: list[tuple[str, Step]] = []
        last: list[tuple[str, Step]] = []
        for (pipeline_id,) in await self._database.fetch(_SQL["pipelines"], self._asked()):
            pipeline = PipelineAudit(self._work, pipeline_id)
            first.append(self._upkeep.index_step(pipeline_id))
            walks += await pipeline.steps()
            last += pipeline.counting_steps()
        for source_id, _ in sources:
            try:
                source = await record_source(self._database, source_id)
                audit = SourceAudit(
                    self._work, source, await pipeline_by_id(self._database, source.pipeline_id)
                )
            except (NotFoundError, ConfigurationError) as error:
                await self._give_up(f"rows:{source_id}", error)
                continue
            walks += audit.steps()
            last += audit.counting_steps()
        return [*first, *walks, *last, *(self._upkeep.counting_steps() if is_whole else [])]

    def _asked(self) -> dict[str, int | None]:
        scope = self._work.scope
        return {
            "tenant_id": scope.tenant_id,
            "pipeline_id": scope.pipeline_id,
            "record_source_id": scope.record_source_id,
        }

    def _tell(self, name: str, number: int, steps: int) -> None:
        self._on_progress(AuditProgress(name, number, steps, self._held.looked, self._held.findings.all()))
