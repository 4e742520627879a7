"""Which jobs of the queue a person looks at or acts on, as the address of a page says it. Owns the fields and what is
wrong with them; the same for looking (JobFilter) and acting (Selection)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query

from embedmill.core.jobs import ItemStatus
from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.visitors import Visitor
from embedmill.database.queries import load_queries
from embedmill.queue.embedding_job_pages import JobFilter, JobState
from embedmill.queue.selection import Selection

_SQL = load_queries("embedmill.dashboard", "queue.sql")
STATES = tuple(state.value for state in JobState)
_LARGEST_ID = 2**63 - 1
_MOST_DAYS = 36_500
_Text = Annotated[str, Query(max_length=2000)]


class QueueFilter:
    """The fields as they were typed; `read` finds what they mean, and leaves faults in `form`."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.typed = {name: value.strip() for name, value in values.items() if value.strip()}
        self.form = FormReading({name: [value] for name, value in self.typed.items()})
        self.status: str | None = None
        self.pipeline: str | None = None
        self.source_type: str | None = None
        self.source_id: str | None = None
        self.batch_id: UUID | None = None
        self.job_id: UUID | None = None
        self.error: str | None = None
        self.older_than_seconds: float | None = None
        self.is_of_nothing = False
        """It names a document that is not there."""

    @property
    def errors(self) -> Mapping[str, str]:
        return self.form.errors

    async def read(self, visitor: Visitor) -> None:
        form = self.form
        self.status = form.choice("status", ("", *STATES)) or None
        self.pipeline, self.error = form.text("pipeline"), form.text("error")
        self.source_type, self.source_id = form.text("type"), form.text("source")
        self.batch_id, self.job_id = self._uuid("batch"), self._uuid("job")
        minutes = form.whole("older", least=1, most=_MOST_DAYS * 1440)
        self.older_than_seconds = None if minutes is None else minutes * 60.0
        document_id = form.whole("document", least=1, most=_LARGEST_ID)
        if document_id is not None:
            await self._take_document(visitor, document_id)
        elif self.source_id is not None and self.source_type is None:
            form.refuse("type", "a source is named by its type and its id: say its type as well")

    def job_filter(self) -> JobFilter:
        state = None if self.status is None else JobState(self.status)
        return JobFilter(
            state, self.source_type, self.source_id, self.batch_id, self.job_id, pipeline=self.pipeline
        )

    def selection(self) -> Selection:
        """The same, to act on; pending jobs are those that wait for a limit too."""
        statuses = {
            None: (),
            "pending": (ItemStatus.PENDING, ItemStatus.RATE_LIMITED),
        }.get(self.status) or ((ItemStatus(self.status),) if self.status else ())
        return Selection(
            statuses=statuses,
            pipeline=self.pipeline,
            batch_id=self.batch_id,
            source_type=self.source_type,
            source=self.source_id,
            job_id=self.job_id,
            error=self.error,
            older_than_seconds=self.older_than_seconds,
        )

    def words(self) -> str:
        """What is meant, in a few words; empty: everything."""
        names = {
            "type": "source type",
            "batch": "batch",
            "job": "ingestion job",
            "error": "error with",
            "older": "older than minutes",
        }
        return ", ".join(f"{names.get(name, name)} {value}" for name, value in self.typed.items())

    async def _take_document(self, visitor: Visitor, document_id: int) -> None:
        row = await visitor.database.fetch_one(
            _SQL["document"], {"document_id": document_id, "tenant_id": visitor.tenant_id}
        )
        if row is None or row != (self.source_type or row[0], self.source_id or row[1]):
            self.is_of_nothing = True
        else:
            self.source_type, self.source_id = row

    def _uuid(self, name: str) -> UUID | None:
        typed = self.form.text(name)
        if typed is None:
            return None
        try:
            return UUID(typed)
        except ValueError:
            self.form.refuse(name, "this is no id: ids look like 1b4e28ba-2fa1-4d2f-883f-0016d3cca427")
            return None


def _from_query(
    status: _Text = "",
    pipeline: _Text = "",
    type: _Text = "",  # noqa: A002 - a field's name
    source: _Text = "",
    document: _Text = "",
    batch: _Text = "",
    job: _Text = "",
    error: _Text = "",
    older: _Text = "",
) -> QueueFilter:
    return QueueFilter({name: str(value) for name, value in locals().items()})


FromQuery = Annotated[QueueFilter, Depends(_from_query)]


def from_form(form: FormReading) -> QueueFilter:
    """The same fields, of a form that was sent."""
    names: Any = ("status", "pipeline", "type", "source", "document", "batch", "job", "error", "older")
    return QueueFilter({name: form.value(name) for name in names})
