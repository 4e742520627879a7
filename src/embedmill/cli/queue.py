"""`embedmill queue`: what is in the queue, and why. Owns how items and batches are shown; what changes them stands
in queue_acting.py and queue_dead_letters.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from embedmill.cli.options import as_json
from embedmill.cli.queue_acting import cancel, pause, resume, retry
from embedmill.cli.queue_dead_letters import dead_letters
from embedmill.cli.queue_filters import filters, item_id, limit, selected

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.queue.inspection import BatchProgress, Explanation
    from embedmill.queue.selection import ListedItem

_MOST_MESSAGES = 20
# What a person looks for first, in this order; the rest follows.
_FIRST = (
    "id", "status", "pipeline", "priority", "operation", "source_type", "source_id", "document", "document_id", "part",
    "first_ordinal", "last_ordinal", "retry_count", "max_retries", "crash_count", "error_message", "created_at",
    "available_at", "rate_limit_delay_ms", "processing_started_at", "processing_completed_at", "lease_deadline",
    "worker_id", "worker_host", "worker_pid", "worker_heartbeat_at", "estimated_tokens", "actual_tokens",
    "vector_count", "job_id", "batch_id", "usage_type", "content_version", "metadata",
)  # fmt: skip


class ItemOrBatch(click.ParamType[int | UUID]):
    """The number of an item, or the UUID of a batch."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | UUID:
        text = str(value).strip()
        if text.isascii() and text.isdecimal():
            return item_id.convert(int(text[:20]), param, ctx)
        try:
            return UUID(text)
        except ValueError:
            self.fail(f"the number of an item, or the UUID of a batch, not {value!r}", param, ctx)


@click.group()
def queue() -> None:
    """The queue: what waits and why; retry, cancel, pause."""


@queue.command("list")
@filters
@click.option("--after", type=item_id, help="Go on after this id: the last one of the page before.")
@limit
@as_json
def list_(after: int | None, limit: int, as_json: bool, **chosen: Any) -> None:
    """List live items, oldest first. With --status completed, failed or cancelled: ended ones, newest first."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.selection import list_items, open_scope

    selection = selected(**chosen)

    async def story(app: App) -> list[ListedItem]:
        scope = await open_scope(app.database, await app.tenant_id(), selection)
        return await list_items(app.database, scope, limit=limit, after=after)

    items = run_with_app(read_settings(), story)
    if as_json:
        print_json(items)
        return
    _show_items(items)
    if len(items) == limit:
        print(f"more: --after {items[-1].id}")
    elif not items:
        print("nothing more" if after else "nothing matches" if selection.narrows() else "the queue is empty")


@queue.command()
@click.argument("id", type=ItemOrBatch())
@as_json
def show(id: int | UUID, as_json: bool) -> None:  # noqa: A002
    """Show all of an item, live or ended; or, by its UUID, a batch's progress, pace and time left."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.inspection import read_batch, read_item

    async def story(app: App) -> dict[str, Any] | BatchProgress:
        tenant_id = await app.tenant_id()
        if isinstance(id, UUID):
            return await read_batch(app.database, tenant_id, id)
        return await read_item(app.database, tenant_id, id)

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json(found)
    elif isinstance(found, dict):
        _show_item(found)
    else:
        _show_batch(found)


@queue.command()
@click.argument("id", type=item_id)
@as_json
def explain(id: int, as_json: bool) -> None:  # noqa: A002
    """Say why an item waits: backoff, quota, cap, pause, no worker, or others before it."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.inspection import explain_item

    async def story(app: App) -> list[Explanation]:
        return await explain_item(app.database, await app.tenant_id(), id)

    reasons = run_with_app(read_settings(), story)
    if as_json:
        print_json(reasons)
        return
    from embedmill.cli.tables import print_below, span

    for reason in reasons:
        print_below(f"{reason.reason.replace('_', ' ')}: {reason.explanation}", indent=0, wrap=True)
        if reason.until is not None and reason.seconds is not None and reason.seconds > 0:
            words = "its lease ends" if reason.reason == "processing" else "until"
            print(f"    {words} {reason.until.astimezone():%H:%M:%S}, in {span(reason.seconds)}")


@queue.command()
@limit
@as_json
def batches(limit: int, as_json: bool) -> None:
    """List recent batches with their progress, the newest first."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.inspection import list_batches

    async def story(app: App) -> list[BatchProgress]:
        return await list_batches(app.database, await app.tenant_id(), limit=limit)

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json(found)
        return
    from embedmill.cli.tables import print_table, since, span

    rows = [
        (
            str(batch.batch_id),
            f"{batch.total:,}",
            "" if batch.percent is None else f"{batch.percent:g}%",
            f"{batch.failed:,}",
            "" if not batch.eta_seconds else span(batch.eta_seconds),
            "" if batch.first_enqueued_at is None else f"{since(batch.first_enqueued_at)} ago",
        )
        for batch in found
    ]
    print_table(("BATCH", "ITEMS", "ENDED", "FAILED", "LEFT", "BEGUN"), rows, right="ITEMS ENDED FAILED LEFT")
    if not rows:
        print("there are no batches")


for command in (retry, cancel, pause, resume, dead_letters):
    queue.add_command(command)


def _show_items(items: list[ListedItem]) -> None:
    """One row for each, and what went wrong below it."""
    from embedmill.cli.tables import print_below, print_table

    several = len({item.pipeline for item in items}) > 1
    titles = ["ID", "STATUS", "PRIO", "WHEN", "TRIES", "TOKENS", *(["PIPELINE"] if several else []), "SOURCE"]
    rows = [
        [
            str(item.id),
            item.status,
            item.priority,
            _when(item),
            f"{item.retry_count}/{item.max_retries + 1}",
            f"{item.estimated_tokens:,}",
            *([item.pipeline] if several else []),
            item.source_id + (f" part {item.part + 1}" if item.part else ""),
        ]
        for item in items
    ]
    print_table(titles, rows, right="ID TOKENS")
    # Many fail for one reason: it is said once.
    said: dict[str, list[int]] = {}
    for item in items:
        if item.error_message:
            said.setdefault(item.error_message, []).append(item.id)
    if said:
        print()
    for message, ids in list(said.items())[:_MOST_MESSAGES]:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        print_below(f"{ids[0]}{more}: {message}", indent=0)
    if len(said) > _MOST_MESSAGES:
        print(f"and {len(said) - _MOST_MESSAGES} more messages: `embedmill queue show ID`")


def _when(item: ListedItem) -> str:
    from datetime import UTC, datetime

    from embedmill.cli.tables import since, span

    if item.ended_at is not None:
        return f"{since(item.ended_at)} ago"
    if item.status == "processing" and item.processing_started_at is not None:
        return f"for {since(item.processing_started_at)}"
    if item.available_at is None:
        return "waits for its budget"
    ahead = (item.available_at - datetime.now(UTC)).total_seconds()
    return f"due in {span(ahead)}" if ahead > 0 else f"waits {since(item.created_at)}"


def _show_item(item: dict[str, Any]) -> None:
    from datetime import datetime

    from embedmill.cli.tables import local_time, since

    for key in sorted(item, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST)):
        value = item[key]
        if (
            key == "dead_letters"
            or value in (None, {}, "")
            or (key == "document" and value == item["source_id"])
        ):
            continue
        if key.endswith("_at") or key == "lease_deadline":
            moment = datetime.fromisoformat(value)
            ago = since(moment) if moment < datetime.now(moment.tzinfo) else ""
            value = local_time(moment) + (f" ({ago} ago)" if ago else "")
        print(f"{key:<26} {value}")
    for letter in item["dead_letters"]:
        about = "the item" if letter["chunk_id"] is None else f"chunk {letter['chunk_id']}"
        state = f" ({letter['resolution']})" if letter["resolution"] else ""
        print(
            f"{'dead letter':<26} {letter['id']}{state}, {about}: {letter['error_message']} [{letter['reason']}]"
        )


def _show_batch(batch: BatchProgress) -> None:
    from embedmill.cli.tables import enumerate_counts, local_time, span

    live = {"pending": batch.pending, "processing": batch.processing, "rate_limited": batch.rate_limited}
    ended = {"completed": batch.completed, "failed": batch.failed, "cancelled": batch.cancelled}
    print(f"batch     {batch.batch_id}: {batch.total:,} items, {(batch.percent or 0):g}% ended")
    print(f"ended     {enumerate_counts(ended) or 'none'}")
    print(f"left      {enumerate_counts(live) or 'none'}" + (
        f"; about {batch.tokens_left:,} tokens" if batch.tokens_left else ""))  # fmt: skip
    if any(live.values()):
        pace = "nothing ended within five minutes: time left unknown"
        if batch.items_per_minute and batch.eta_seconds is not None:
            pace = f"{batch.items_per_minute:,.1f} items a minute, about {span(batch.eta_seconds)} left"
        print(f"pace      {pace}")
    if batch.first_enqueued_at is not None:
        print(f"begun     {local_time(batch.first_enqueued_at)}")
    if batch.last_ended_at is not None:
        print(f"last end  {local_time(batch.last_ended_at)}")
