"""`embedmill backfill`: embed the rows that stand in a table or a shard feed already. Owns what is typed; how a walk is
carried out and shown here stands in backfill_run.py."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from embedmill.cli.options import Duration, Text, Usd, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.cli.backfill_run import BackfillReport
    from embedmill.sources.backfill_orders import BackfillOrder, BackfillSource

_ACTS = ("stop", "schedule", "unschedule")


@click.command()
@click.argument("source", metavar="TABLE|SHARD-TYPE", type=Text())
@click.option("--pipeline", "-p", type=Text(), help="Which pipeline, where several hold the source.")
@click.option("--all", "everything", is_flag=True, help="To the last row, whatever was said before.")
@click.option("--iterations", type=click.IntRange(1), help="So many batches at the most.")
@click.option("--batch", type=click.IntRange(1, 10_000), help="Rows of a batch.  [default: 500]")
@click.option("--delay", type=click.FloatRange(0, 86_400), help="Seconds between two batches.")
@click.option("--rate", type=click.FloatRange(0, 1e6, min_open=True), help="Rows a second at the most.")
@click.option("--rows", type=click.IntRange(1), help="So many rows at the most.")
@click.option("--for", "duration", type=Duration(), help="For so long at the most: 10m, 2h.")
@click.option("--budget-usd", type=Usd(), help="What its own calls may cost, in US dollars.")
@click.option("--from-start", is_flag=True, help="Begin at the first row again.")
@click.option(
    "--reread", is_flag=True, help="Look at all rows, also those that have vectors: their text may differ."
)
@click.option("--detach", is_flag=True, help="Only order it: workers carry it out.")
@click.option("--stop", is_flag=True, help="End the walk that runs.")
@click.option("--schedule", metavar="CRON", type=Text(), help='Walk at these times (UTC): "0 3 * * *".')
@click.option("--unschedule", is_flag=True, help="No more walks by themselves.")
@as_json
def backfill(
    source: str,
    pipeline: str | None,
    everything: bool,
    iterations: int | None,
    batch: int | None,
    delay: float | None,
    rate: float | None,
    rows: int | None,
    duration: float | None,
    budget_usd: Decimal | None,
    from_start: bool,
    reread: bool,
    detach: bool,
    stop: bool,
    schedule: str | None,
    unschedule: bool,
    as_json: bool,
) -> None:
    """Embed the rows that have no vectors yet, a batch at a time; live changes go first. Ctrl-C keeps what is done, and
    the same command goes on where it was. Without limits: all rows.

    Exit status: 0 done, or as far as was allowed; 1 some rows failed or it cannot go on, 3 the budget is used up, 130
    interrupted."""
    from embedmill.cli.running import print_json, run_with_app, start
    from embedmill.sources.backfill_orders import BackfillOrder

    limits = {
        "--iterations": iterations, "--rows": rows, "--for": duration, "--budget-usd": budget_usd,
    }  # fmt: skip
    others = {"--from-start": from_start, "--reread": reread, "--detach": detach, "--all": everything}
    _assert_one_act(stop=stop, schedule=schedule, unschedule=unschedule, limits=limits, others=others)
    if everything and (iterations or rows):
        raise click.UsageError("--all is without --iterations and --rows.")
    order = BackfillOrder(
        batches=iterations, rows=rows, seconds=duration, budget_usd=budget_usd,
        rows_per_second=rate, delay_seconds=delay, batch_size=batch,
    )  # fmt: skip
    if everything and not order.is_limited:
        order = BackfillOrder(delay_seconds=0.0)  # said anew: what was said before holds no more

    async def story(app: App) -> BackfillReport | dict[str, object]:
        from embedmill.sources.backfill_orders import find_source

        found = await find_source(app.database, await app.tenant_id(), source, pipeline=pipeline)
        if stop or schedule is not None or unschedule:
            return await _act(app, found, order, stop=stop, schedule=schedule)
        return await _walk(app, found, order, from_start, reread, detach, as_json)

    done = run_with_app(start(), story)
    if isinstance(done, dict):
        if as_json:
            print_json(done)
        else:
            print(done["message"])
        return
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode({"done": True, **msgspec.structs.asdict(done)}) + b"\n")
        sys.stdout.flush()
    else:
        done.show()
    sys.exit(done.exit_status)


def _assert_one_act(
    *,
    stop: bool,
    schedule: str | None,
    unschedule: bool,
    limits: Mapping[str, object],
    others: Mapping[str, bool],
) -> None:
    """Raises UsageError for options that do not go together."""
    given = [name for name, value in limits.items() if value is not None]
    given += [name for name, value in others.items() if value]
    if sum([stop, schedule is not None, unschedule]) > 1:
        raise click.UsageError("--stop, --schedule and --unschedule are one at a time.")
    if schedule is not None and given:
        raise click.UsageError(
            f"{given[0]} is of one walk: a schedule takes --rate, --delay and --batch, which hold for each."
        )
    if (stop or unschedule) and given:
        raise click.UsageError(f"{given[0]} has nothing to do with --{'stop' if stop else 'unschedule'}.")


async def _act(
    app: App, source: BackfillSource, order: BackfillOrder, *, stop: bool, schedule: str | None
) -> dict[str, object]:
    """Stop, schedule, unschedule: what came of it."""
    from embedmill.cli.actor import local_actor
    from embedmill.sources.backfill_orders import schedule_backfill, stop_backfill, unschedule_backfill

    tenant_id, actor = await app.tenant_id(), local_actor()
    told: dict[str, object] = {"source": source.name, "pipeline": source.pipeline}
    if stop:
        was_running = await stop_backfill(app.database, tenant_id, source, actor=actor)
        message = (
            f"{source.name}: the walk has ended; `embedmill backfill {source.name}` goes on where it was"
            if was_running
            else f"{source.name}: no walk runs"
        )
        return {**told, "stopped": was_running, "message": message}
    if schedule is not None:
        begins = await schedule_backfill(app.database, tenant_id, source, schedule, order, actor=actor)
        message = f"{source.name}: walked by workers at {schedule!r} (UTC), next at {begins:%Y-%m-%d %H:%M}"
        return {**told, "schedule": schedule, "next_start_at": begins.isoformat(), "message": message}
    was_scheduled = await unschedule_backfill(app.database, tenant_id, source, actor=actor)
    message = f"{source.name}: {'no longer walked by itself' if was_scheduled else 'had no schedule'}"
    return {**told, "unscheduled": was_scheduled, "message": message}


async def _walk(
    app: App,
    source: BackfillSource,
    order: BackfillOrder,
    from_start: bool,
    reread: bool,
    detach: bool,
    as_json: bool,
) -> BackfillReport | dict[str, object]:
    """Order the walk, and carry it out here unless it is left to others."""
    from embedmill.cli.actor import local_actor
    from embedmill.sources.backfill_orders import backfill_state, order_backfill

    tenant_id = await app.tenant_id()
    goes_on = await order_backfill(
        app.database, tenant_id, source, order, from_start=from_start, rereads=reread, actor=local_actor()
    )
    if detach:
        state = await backfill_state(app.database, source)
        left = "" if state.rows_left is None else f", {state.rows_left:,} rows to read"
        message = (
            f"{source.name}: the walk {'goes on' if goes_on else 'has begun'}{left}; `embedmill worker` carries it "
            "out, `embedmill status` shows how far it is"
        )
        return {"source": source.name, "pipeline": source.pipeline, "goes_on": goes_on, "message": message}
    from embedmill.cli.backfill_run import BackfillRun

    return await BackfillRun(app, source, as_json=as_json).tell()
