"""The filters and the manners that the commands of `embedmill queue` share. Owns the options' names and words, and
what is asked before many items are changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from embedmill.cli.options import Duration, Text

if TYPE_CHECKING:
    from uuid import UUID

    from embedmill.queue.selection import Selection

STATUSES = ("pending", "processing", "rate_limited", "completed", "failed", "cancelled")
_LARGEST_ID = 2**63 - 1
_ASKED_FROM = 100
item_id = click.IntRange(1, _LARGEST_ID)
limit = click.option(
    "--limit", type=click.IntRange(1, 10000), default=50, show_default=True, help="How many at most."
)
_FILTERS = (
    click.option(
        "--status",
        "statuses",
        type=click.Choice(STATUSES),
        multiple=True,
        help="May be given several times.",
    ),
    click.option("--pipeline", "-p", type=Text(), help="Items of this pipeline."),
    click.option("--batch", "batch_id", type=click.UUID, help="Items enqueued under this batch id."),
    click.option("--source-type", type=Text(), help="Items of sources of this type, such as file."),
    click.option(
        "--source", type=Text(), help="Items of this source id; with * at its end, of all that begin so."
    ),
    click.option("--priority", type=click.Choice(["high", "medium", "low"]), help="Items of this priority."),
    click.option("--job", "job_id", type=click.UUID, help="Items of this ingestion job."),
    click.option("--worker", "worker_id", type=click.UUID, help="Items that this worker holds, or ended."),
    click.option("--error", type=Text(), metavar="TEXT", help="Items whose error message holds this text."),
    click.option(
        "--older-than", type=Duration(), help="Items enqueued longer ago than this: 90s, 10m, 2h, 1d."
    ),
)
_BULK = (
    click.option("--all", "everything", is_flag=True, help="Without ids and filters: all there are."),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing."),
    click.option("--yes", "-y", is_flag=True, help="Do not ask, however many they are."),
)


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose items; `selected` reads them."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def bulk(command: Callable[..., None]) -> Callable[..., None]:
    """The options of whatever changes many items."""
    for option in reversed(_BULK):
        command = option(command)
    return command


def selected(
    ids: tuple[int, ...] = (),
    *,
    statuses: tuple[str, ...],
    pipeline: str | None,
    batch_id: UUID | None,
    source_type: str | None,
    source: str | None,
    priority: str | None,
    job_id: UUID | None,
    worker_id: UUID | None,
    error: str | None,
    older_than: float | None,
) -> Selection:
    """What the options choose."""
    from embedmill.core.jobs import ItemStatus
    from embedmill.queue.selection import Selection

    return Selection(
        ids=tuple(dict.fromkeys(ids)),
        statuses=tuple(ItemStatus(status) for status in dict.fromkeys(statuses)),
        pipeline=pipeline,
        batch_id=batch_id,
        source_type=source_type,
        source=source,
        priority=priority,
        job_id=job_id,
        worker_id=worker_id,
        error=error,
        older_than_seconds=older_than,
    )


def refuse_everything(verb: str, *, narrows: bool, everything: bool) -> None:
    """Nothing was chosen, and not everything either; or both."""
    if not narrows and not everything:
        raise click.UsageError(
            f"which ones? Name ids, or filters (--help lists them), or --all to {verb} all there are."
        )
    if narrows and everything:
        raise click.UsageError("--all stands alone: leave it out to go by the ids and filters.")


def confirmed(question: str, items: int, *, yes: bool) -> bool:
    """Whether to go on: asked on a terminal where it is about many."""
    if yes or items <= _ASKED_FROM or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return click.confirm(question)


def show_progress(verb: str) -> Callable[[int], None]:
    """A line that counts, on a terminal, from the second thousand on."""

    def show(done: int) -> None:
        if done >= 1000 and sys.stderr.isatty():
            print(f"\r{done:,} {verb}", end="", file=sys.stderr, flush=True)

    return show


def end_progress(done: int) -> None:
    if done >= 1000 and sys.stderr.isatty():
        print(file=sys.stderr)


def examples(ids: list[int]) -> str:
    """such as 12, 13: a few of many."""
    return f"such as {', '.join(map(str, ids[:5]))}" if ids else ""
