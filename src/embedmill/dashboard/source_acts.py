"""What is done on the page of one source: its backfill, its schedule, pause and resume, a check, its removal. Owns the
forms; each act is the function that the command line calls too."""

from __future__ import annotations

from decimal import Decimal

from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.source_page import show_source
from embedmill.dashboard.source_reading import SourceFacts, find_facts, find_shard_feed, find_table_source
from embedmill.dashboard.source_words import without_options
from embedmill.dashboard.visitors import Admin, Visitor, Writer
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, EmbedmillError, NotFoundError
from embedmill.sources.backfill_orders import (
    BackfillOrder,
    order_backfill,
    schedule_backfill,
    stop_backfill,
    unschedule_backfill,
)
from embedmill.sources.shard_feeds import pause_feed, remove_feed
from embedmill.sources.table_changes import remove_table
from embedmill.sources.tables import pause_table, resume_table

_SQL = load_queries("embedmill.dashboard", "sources.sql")
router = APIRouter()
_MOST_ROWS = 10**12
_MOST_BATCH = 10_000
_LEAST_RATE = Decimal("0.001")
_MOST_MINUTES = 525_600
_MOST_USD = Decimal(10**9)


@router.post("/sources/{source_id:int}/backfill")
async def start_backfill(request: Request, visitor: Writer, source_id: int) -> Response:
    """Begin a walk, or go on with it. What the form says holds, and no limit of an earlier order."""
    facts = await find_facts(visitor, source_id)
    form = await FormReading.of(request)
    order = _order(form)
    try:
        if not form.errors:
            goes_on = await order_backfill(
                visitor.database,
                visitor.tenant_id,
                facts.walked,
                order if order.is_limited else BackfillOrder(delay_seconds=0.0),
                from_start=form.has("from_start", "1"),
                rereads=form.has("rereads", "1"),
                actor=visitor.actor,
            )
    except ConfigurationError as error:
        form.refuse("budget_usd", without_options(str(error)))
    if form.errors:
        return await show_source(request, visitor, source_id, form, 422)
    said = "The backfill goes on where it was" if goes_on else "The backfill has begun"
    return redirect(facts.address, f"{said}; workers carry it out, live changes go first.")


def _order(form: FormReading) -> BackfillOrder:
    minutes = form.decimal("minutes", most=Decimal(_MOST_MINUTES), above=True)
    pace = _pace(form)
    return BackfillOrder(
        batches=form.whole("batches", least=1, most=_MOST_ROWS),
        rows=form.whole("rows", least=1, most=_MOST_ROWS),
        seconds=None if minutes is None else float(minutes) * 60,
        budget_usd=form.decimal("budget_usd", most=_MOST_USD),
        rows_per_second=pace.rows_per_second,
        delay_seconds=pace.delay_seconds,
        batch_size=pace.batch_size,
    )


def _pace(form: FormReading, prefix: str = "") -> BackfillOrder:
    """How fast a walk goes, once or by its schedule."""
    rate = form.decimal(f"{prefix}rate", least=_LEAST_RATE, most=Decimal(1_000_000))
    delay = form.decimal(f"{prefix}delay", most=Decimal(86_400))
    return BackfillOrder(
        rows_per_second=None if rate is None else float(rate),
        delay_seconds=None if delay is None else float(delay),
        batch_size=form.whole(f"{prefix}batch_size", least=1, most=_MOST_BATCH),
    )


@router.post("/sources/{source_id:int}/backfill/stop")
async def end_backfill(visitor: Writer, source_id: int) -> Response:
    facts = await find_facts(visitor, source_id)
    was_running = await stop_backfill(visitor.database, visitor.tenant_id, facts.walked, actor=visitor.actor)
    said = "The backfill has ended; what waits in the queue is embedded all the same." if was_running else ""
    return redirect(facts.address, said or "No backfill was running.")


@router.post("/sources/{source_id:int}/schedule")
async def schedule(request: Request, visitor: Admin, source_id: int) -> Response:
    """Walks by themselves, at the times of a cron expression."""
    facts = await find_facts(visitor, source_id)
    form = await FormReading.of(request)
    wanted = form.text("schedule")
    if wanted is None:
        form.refuse("schedule", "say when, such as 0 3 * * * for each night at three (UTC)")
    pace = _pace(form, "schedule_")
    if wanted is not None and not form.errors:
        try:
            begins = await schedule_backfill(
                visitor.database, visitor.tenant_id, facts.walked, wanted, pace, actor=visitor.actor
            )
            return redirect(
                facts.address, f"Scheduled; the next backfill begins at {begins:%Y-%m-%d %H:%M} UTC."
            )
        except ConfigurationError as error:
            form.refuse("schedule", str(error))
    return await show_source(request, visitor, source_id, form, 422)


@router.post("/sources/{source_id:int}/unschedule")
async def unschedule(visitor: Admin, source_id: int) -> Response:
    facts = await find_facts(visitor, source_id)
    had = await unschedule_backfill(visitor.database, visitor.tenant_id, facts.walked, actor=visitor.actor)
    return redirect(facts.address, "It is backfilled by itself no longer." if had else "It had no schedule.")


@router.post("/sources/{source_id:int}/pause")
async def pause(visitor: Admin, source_id: int) -> Response:
    return await _pause(visitor, source_id, is_paused=True)


@router.post("/sources/{source_id:int}/resume")
async def resume(visitor: Admin, source_id: int) -> Response:
    return await _pause(visitor, source_id, is_paused=False)


async def _pause(visitor: Visitor, source_id: int, *, is_paused: bool) -> Response:
    facts = await find_facts(visitor, source_id)
    try:
        if not facts.is_table:
            feed = await find_shard_feed(visitor, facts)
            await pause_feed(visitor.database, feed, is_paused=is_paused, actor=visitor.actor)
        else:
            table = await find_table_source(visitor, facts)
            # A table that is resumed has its triggers looked after, which only their owner may do.
            act = pause_table if is_paused else resume_table
            await act(visitor.service.operator, table, actor=visitor.actor)
    except EmbedmillError as error:
        return redirect(facts.address, str(error), is_error=True)
    said = "Paused: changes are still noted, and read when it is resumed." if is_paused else "Resumed."
    return redirect(facts.address, said)


@router.post("/sources/{source_id:int}/check")
async def check(visitor: Admin, source_id: int) -> Response:
    """Look after a table's triggers, columns and rights now; workers do so every minute or so."""
    facts = await find_facts(visitor, source_id)
    if not facts.is_table:
        raise NotFoundError("a shard feed has no table that could be checked: audit it instead")
    row = await visitor.service.operator.fetch_one(_SQL["check"], {"id": facts.id})
    trouble = row[0] if row else None
    return redirect(
        facts.address,
        trouble or "Checked: its table, key, columns, rights and triggers are as they should be.",
        is_error=trouble is not None,
    )


@router.get("/sources/{source_id:int}/remove")
async def removal_page(request: Request, visitor: Admin, source_id: int) -> Response:
    return await _show_removal(request, visitor, await find_facts(visitor, source_id), FormReading())


@router.post("/sources/{source_id:int}/remove")
async def remove(request: Request, visitor: Admin, source_id: int) -> Response:
    """Forget a source. Whoever deletes vectors types its name."""
    facts = await find_facts(visitor, source_id)
    form = await FormReading.of(request)
    with_vectors = form.choice("vectors", ("keep", "delete")) == "delete"
    if with_vectors and form.text("name") != facts.name:
        form.refuse("name", f"type {facts.name} to delete what was embedded of it")
    if form.errors:
        return await _show_removal(request, visitor, facts, form, 422)
    try:
        kept, deleted = await _remove(visitor, facts, with_vectors=with_vectors)
    except EmbedmillError as error:
        form.refuse("", str(error))
        return await _show_removal(request, visitor, facts, form, 422)
    became = f"{deleted:,} documents are deleted" if deleted else f"{kept:,} documents stay searchable"
    return redirect("/sources", f"{facts.name} is removed; {became}.")


async def _remove(visitor: Visitor, facts: SourceFacts, *, with_vectors: bool) -> tuple[int, int]:
    """How many documents were kept, and deleted."""
    if facts.is_table:
        table = await find_table_source(visitor, facts)
        gone = await remove_table(
            visitor.service.operator, table, with_vectors=with_vectors, actor=visitor.actor
        )
        return gone.documents_kept, gone.documents_deleted
    feed = await find_shard_feed(visitor, facts)
    left = await remove_feed(visitor.database, feed, with_vectors=with_vectors, actor=visitor.actor)
    return left.documents_kept, left.documents_deleted


async def _show_removal(
    request: Request, visitor: Visitor, facts: SourceFacts, form: FormReading, status: int = 200
) -> Response:
    async def load() -> dict[str, object]:
        found = await find_facts(visitor, facts.id)
        table = await find_table_source(visitor, found) if found.is_table else None
        return {
            "here": f"{facts.address}/remove",
            "source": found,
            "form": form,
            "table": table,
            "documents": table.documents if table else (await find_shard_feed(visitor, found)).documents,
        }

    return await show(request, visitor, "source_removing.html", load, status=status)
