"""`embedmill job`: ingestion jobs, straight on the database. Owns how they are shown and what is said of the acts;
what an act does is ingest/jobs.py's."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.ingest.jobs import Estimate, Job, Jobs

STATUSES = (
    "staged",
    "parsing",
    "chunk_preview_ready",
    "embedding_in_progress",
    "completed",
    "cancelled",
    "failed",
)
job_ids = click.argument("job_ids", metavar="ID...", type=click.UUID, nargs=-1)
of_batch = click.option("--batch", "batch_id", type=click.UUID, help="All jobs of this batch that it suits.")


@click.group()
def job() -> None:
    """Ingestion jobs: what was uploaded or ingested, how far it is; launch, cancel, resume."""


@job.command("list")
@click.option("--status", type=click.Choice(STATUSES))
@click.option("--batch", "batch_id", type=click.UUID, help="Jobs of this batch.")
@click.option("--pipeline", "-p", type=Text(), help="Jobs of this pipeline.")
@click.option("--after", type=click.UUID, help="Go on after this job: the last one of the page before.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many at most."
)
@as_json
def list_(
    status: str | None,
    batch_id: UUID | None,
    pipeline: str | None,
    after: UUID | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.ingest.jobs import JobFilter, Jobs, Position

    async def story(app: App) -> list[Job]:
        jobs = Jobs(app.database, await app.tenant_id())
        if pipeline is not None:
            await app.pipeline(pipeline)  # or it says which there are
        last = None if after is None else await jobs.find(after)
        return await jobs.page(
            JobFilter(status=status, batch_id=batch_id, pipeline=pipeline),
            after=None if last is None else Position(last.created_at, last.id),
            limit=limit,
        )

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json([_fields(one) for one in found])
        return
    _show_jobs(found)
    if len(found) == limit:
        print(f"more: --after {found[-1].id}")
    elif not found:
        narrows = status or batch_id or pipeline
        print(
            "nothing more" if after else "nothing matches" if narrows else "no jobs: nothing was ingested yet"
        )


@job.command()
@click.argument("job_id", metavar="ID", type=click.UUID)
@as_json
def show(job_id: UUID, as_json: bool) -> None:
    """Show one job; before its launch also what launching costs."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.ingest.jobs import Jobs

    async def story(app: App) -> tuple[Job, Estimate | None]:
        jobs = Jobs(app.database, await app.tenant_id())
        found = await jobs.find(job_id)
        return found, await jobs.estimate(job_id) if found.status == "chunk_preview_ready" else None

    found, estimate = run_with_app(read_settings(), story)
    if as_json:
        print_json({**_fields(found), "estimate": estimate})
    else:
        _show_job(found, estimate)


@job.command()
@job_ids
@of_batch
@as_json
def launch(job_ids: tuple[UUID, ...], batch_id: UUID | None, as_json: bool) -> None:
    """Launch jobs that are at their preview: their chunks are embedded by the workers."""

    async def act(jobs: Jobs, one: Job) -> None:
        await jobs.launch(one.id)

    _act_on(job_ids, batch_id, ("chunk_preview_ready",), act, as_json=as_json)


@job.command()
@job_ids
@of_batch
@as_json
def cancel(job_ids: tuple[UUID, ...], batch_id: UUID | None, as_json: bool) -> None:
    """Stop jobs. Calls under way are written still; every vector is kept, and `job resume` goes on."""
    from embedmill.errors import ConflictError

    async def act(jobs: Jobs, one: Job) -> None:
        status = await jobs.cancel(one.id, "cancelled by a person")
        if status != "cancelled":
            raise ConflictError(f"it has ended already: {status}")

    _act_on(job_ids, batch_id, STATUSES[:4], act, as_json=as_json)


@job.command()
@job_ids
@of_batch
@as_json
def resume(job_ids: tuple[UUID, ...], batch_id: UUID | None, as_json: bool) -> None:
    """Go on with jobs that were cancelled or failed: what has its vector is not paid for again."""
    from embedmill.errors import ConflictError

    async def act(jobs: Jobs, one: Job) -> None:
        if one.status not in {"cancelled", "failed"}:
            raise ConflictError(_not_resumable(one.status))
        await jobs.resume(one.id)

    _act_on(job_ids, batch_id, ("cancelled", "failed"), act, as_json=as_json)


@job.command()
@job_ids
@of_batch
@as_json
def retry(job_ids: tuple[UUID, ...], batch_id: UUID | None, as_json: bool) -> None:
    """As resume; chunks that the provider refused are tried again too, of completed jobs as well."""
    from embedmill.errors import ConflictError

    async def act(jobs: Jobs, one: Job) -> None:
        if one.status == "completed" and one.failed_chunks == 0:
            raise ConflictError("it is completed: there is nothing to retry")
        if one.status not in {"cancelled", "failed", "completed"}:
            raise ConflictError(_not_resumable(one.status))
        await jobs.retry(one.id)

    _act_on(job_ids, batch_id, ("failed",), act, as_json=as_json)


@job.command()
@job_ids
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@as_json
def delete(job_ids: tuple[UUID, ...], yes: bool, as_json: bool) -> None:
    """Remove jobs. The newest job of a document takes the document with it: text, vectors, and the original."""
    from embedmill.app import build_originals
    from embedmill.cli.running import read_settings
    from embedmill.cli.tables import count

    if not (yes or as_json) and sys.stdin.isatty() and job_ids:
        click.confirm(f"delete {count(len(job_ids), 'job')}, with their documents and vectors?", abort=True)
    originals = build_originals(read_settings())

    async def act(jobs: Jobs, one: Job) -> None:
        from embedmill.errors import StorageError

        for key in await jobs.delete(one.id):
            try:
                await originals.delete(key)
            except StorageError as error:  # a sweep finds it
                print(f"job {one.id}: its original was not removed: {error}", file=sys.stderr)

    _act_on(job_ids, None, (), act, as_json=as_json, is_removal=True)


def _act_on(
    job_ids: tuple[UUID, ...],
    batch_id: UUID | None,
    suitable: tuple[str, ...],
    act: Callable[[Jobs, Job], Awaitable[None]],
    *,
    as_json: bool,
    is_removal: bool = False,
) -> None:
    """Do it to each, and tell what each is now; exit status 1 where one that was named could not be served."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.errors import ConflictError, NotFoundError
    from embedmill.ingest.jobs import Jobs

    if bool(job_ids) == (batch_id is not None):
        rest = "" if is_removal else ", or --batch ID"
        raise click.UsageError(f"which ones? Name the ids of jobs (`embedmill job list` shows them){rest}.")

    async def story(app: App) -> tuple[list[Job | UUID], dict[UUID, str]]:
        jobs = Jobs(app.database, await app.tenant_id())
        chosen = list(dict.fromkeys(job_ids))
        if batch_id is not None:
            await jobs.batch(batch_id)  # or it is not found
            chosen = await jobs.batch_jobs(batch_id, suitable)
        done: list[Job | UUID] = []
        missed: dict[UUID, str] = {}
        for one in chosen:
            try:
                # Found first: only jobs of this tenant are acted on.
                await act(jobs, await jobs.find(one))
                done.append(one if is_removal else await jobs.find(one))
            except (ConflictError, NotFoundError) as error:
                missed[one] = str(error)
        return done, missed

    done, missed = run_with_app(read_settings(), story)
    if as_json:
        shown = [one if isinstance(one, UUID) else _fields(one) for one in done]
        print_json({"done": shown, "not_possible": {str(one): why for one, why in missed.items()}})
    else:
        for one in done:
            print(f"{one}: deleted" if isinstance(one, UUID) else f"{one.id}: {_standing(one)}")
        for job_id, why in missed.items():
            print(f"{job_id}: {why}", file=sys.stderr)
        if not done and not missed:
            print("nothing to do: no job of the batch is in a state for it")
    if missed:
        sys.exit(1)


def _not_resumable(status: str) -> str:
    if status == "chunk_preview_ready":
        return "it is at its preview: `embedmill job launch` embeds it"
    return "it is completed" if status == "completed" else f"it is under way: {status}"


def _show_jobs(found: list[Job]) -> None:
    from embedmill.cli.tables import print_table, since

    print_table(
        ("ID", "STATUS", "DONE", "CHUNKS", "FAILED", "MADE", "NAME"),
        [
            (
                str(one.id),
                "waits for its budget" if one.paused_reason else one.status,
                f"{one.progress}%",
                f"{one.total_chunks:,}",
                f"{one.failed_chunks:,}",
                f"{since(one.created_at)} ago",
                one.name,
            )
            for one in found
        ],
        right="DONE CHUNKS FAILED",
    )


def _show_job(found: Job, estimate: Estimate | None) -> None:
    from embedmill.cli.tables import count, local_time, print_below, span
    from embedmill.core.pricing import format_usd

    print(f"{found.name}  ({found.source_type} {found.source_id}, pipeline {found.pipeline})")
    print(f"    {_standing(found)}")
    if found.error_message:
        stage = f"at {found.error_stage}: " if found.error_stage else ""
        print_below(f"{stage}{found.error_message}", indent=4, wrap=True)
    if found.total_chunks:
        parts = [f"{found.embedded_chunks:,} of {count(found.total_chunks, 'chunk')} embedded"]
        parts += [f"{found.reused_chunks:,} of these reused"] if found.reused_chunks else []
        parts += (
            [f"{found.failed_chunks:,} cannot be embedded (`embedmill queue dead-letters`)"]
            if found.failed_chunks
            else []
        )
        print_below(", ".join(parts), indent=4, wrap=True)
        budget = "" if found.budget_usd is None else f" of a budget of {format_usd(found.budget_usd)}"
        print(f"    {found.paid_tokens:,} tokens paid, cost {format_usd(found.cost_usd)}{budget}")
    if estimate is not None:
        print_below(
            f"launching it costs {format_usd(estimate.cost_usd)}: {estimate.tokens:,} tokens of "
            f"{count(estimate.lacking_chunks - estimate.reusable_chunks, 'chunk')}, "
            f"{estimate.reusable_chunks:,} are reused",
            indent=4,
            wrap=True,
        )
    if found.eta_seconds is not None and not found.paused_reason:
        print(f"    about {span(found.eta_seconds)} left")
    ended = "" if found.completed_at is None else f", ended {local_time(found.completed_at)}"
    print(f"    priority {found.priority}, made {local_time(found.created_at)}{ended}")
    print(f"    job {found.id}" + (f", batch {found.batch_id}" if found.batch_id else ""))
    if found.is_resumable and found.status in {"cancelled", "failed"}:
        print(f"    `embedmill job resume {found.id}` goes on")


def _standing(found: Job) -> str:
    """Where it stands, in words."""
    progress = f", {found.progress}%" if found.status in {"embedding_in_progress", "cancelled"} else ""
    words = {
        "staged": "waits for a worker to read it",
        "parsing": "is being read",
        "chunk_preview_ready": "at its preview",
        "embedding_in_progress": "is being embedded",
        "completed": "completed",
        "cancelled": "cancelled",
        "failed": "failed",
    }[found.status]
    paused = " (waits for its budget)" if found.paused_reason else ""
    return f"{words}{progress}{paused}"


def _fields(found: Job) -> dict[str, Any]:
    import msgspec

    return {**msgspec.structs.asdict(found), "progress": found.progress}
