"""`embedmill budget`: the most that a tenant or a job may spend. Owns how it is shown; what it stops is the database's
to say."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.usage.budgets import Budget

of_job = click.option(
    "--job", "job_id", type=click.UUID, help="Of this ingestion job.  [default: of EMBEDMILL_TENANT]"
)


@click.group()
def budget() -> None:
    """Budgets: the most that a tenant or a job may spend. What they stop waits, and goes on when they are raised."""


@budget.command()
@of_job
@as_json
def show(job_id: UUID | None, as_json: bool) -> None:
    """Show the budget, with what was spent of it and what calls under way may cost."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.usage.budgets import job_budget, tenant_budget

    settings = read_settings()

    async def story(app: App) -> Budget | None:
        tenant_id = await app.tenant_id()
        if job_id is None:
            return await tenant_budget(app.database, tenant_id)
        await _assert_job(app, tenant_id, job_id)
        return await job_budget(app.database, tenant_id, job_id)

    found = run_with_app(settings, story)
    if as_json:
        print_json(found)
    elif found is None:
        print(f"{_whose(job_id, settings.tenant)} has no budget: nothing limits what it spends")
    else:
        _show(found, settings.tenant)


@budget.command("set")
@click.argument("amount", type=Text())
@of_job
@click.option(
    "--period",
    type=click.Choice(["month", "total"]),
    help="A tenant's: for each month (of UTC), or in all.  [default: month]",
)
@as_json
def set_(amount: str, job_id: UUID | None, period: Literal["month", "total"] | None, as_json: bool) -> None:
    """Set, raise or lower the budget to so many US dollars. What the ledger says was spent counts."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.usage.budgets import set_job_budget, set_tenant_budget

    if job_id is not None and period == "month":
        raise click.UsageError("a job's budget is in total: leave out --period.")
    settings = read_settings()
    limit = amount.strip().removeprefix("$")

    async def story(app: App) -> Budget | None:
        tenant_id = await app.tenant_id()
        if job_id is None:
            return await set_tenant_budget(
                app.database, tenant_id, limit, period=period or "month", actor=local_actor()
            )
        return await set_job_budget(app.database, tenant_id, job_id, limit, actor=local_actor())

    changed = run_with_app(settings, story)
    if as_json:
        print_json(changed)
    elif changed is not None:
        _show(changed, settings.tenant)


@budget.command()
@of_job
@as_json
def remove(job_id: UUID | None, as_json: bool) -> None:
    """Take the budget away: what it stopped goes on."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.usage.budgets import remove_job_budget, remove_tenant_budget

    settings = read_settings()

    async def story(app: App) -> bool:
        tenant_id = await app.tenant_id()
        if job_id is None:
            return await remove_tenant_budget(app.database, tenant_id, actor=local_actor())
        await _assert_job(app, tenant_id, job_id)
        return await remove_job_budget(app.database, tenant_id, job_id, actor=local_actor())

    was_there = run_with_app(settings, story)
    whose = _whose(job_id, settings.tenant)
    if as_json:
        print_json({"removed": was_there})
    else:
        print(f"removed: {whose} has no budget any more" if was_there else f"{whose} had no budget")


async def _assert_job(app: App, tenant_id: int, job_id: UUID) -> None:
    """A job without a budget is another thing than no job."""
    from embedmill.ingest.jobs import Jobs

    await Jobs(app.database, tenant_id).find(job_id)


def _whose(job_id: UUID | None, tenant: str) -> str:
    return f"tenant {tenant}" if job_id is None else f"job {job_id}"


def _show(found: Budget, tenant: str) -> None:
    from embedmill.cli.tables import local_time
    from embedmill.core.pricing import format_usd

    span = " a month" if found.period == "month" else ""
    reserved = f", {format_usd(found.reserved_usd)} reserved by calls under way" if found.reserved_usd else ""
    print(
        f"{_whose(found.job_id, tenant)}: {format_usd(found.spent_usd)} of {format_usd(found.limit_usd)}{span} "
        f"spent{reserved}"
    )
    if found.reached_at is not None:
        how = " --job ID" if found.job_id is not None else ""
        print(
            f"reached at {local_time(found.reached_at)}: its work waits until `embedmill budget set AMOUNT{how}` "
            f"raises it{' or the next month begins' if found.period == 'month' else ''}"
        )
    if found.uncounted_pipelines:
        print(
            f"not counted, since no price is known (`embedmill pipeline show`): "
            f"{', '.join(found.uncounted_pipelines)}",
            file=sys.stderr,
        )
