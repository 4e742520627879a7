"""`embedmill usage`: the ledger of provider calls, summed. Owns how it is shown and how times are said."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING

import click

from embedmill.cli.options import Duration, Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.usage.ledger import UsageSum, UsageSummary

_GROUPINGS = {
    "type": "usage_type",
    "model": "model",
    "pipeline": "pipeline",
    "day": "day",
    "user": "user",
    "job": "session",
    "tenant": "tenant",
}


@click.command()
@click.option(
    "--by", type=click.Choice(list(_GROUPINGS)), default="type", show_default=True, help="Summed by what."
)
@click.option(
    "--since", type=Text(), default="30d", show_default=True, help="30d, 12h, or a day: 2026-05-01."
)
@click.option("--until", type=Text(), help="The last day, 2026-05-31, or so long ago.  [default: now]")
@click.option(
    "--time-zone", type=Text(), default="UTC", show_default=True, help="Whose days, such as Europe/Berlin."
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Rows at most."
)
@as_json
def usage(by: str, since: str, until: str | None, time_zone: str, limit: int, as_json: bool) -> None:
    """Sum what provider calls counted and cost. By tenant: of all tenants, else of EMBEDMILL_TENANT."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.usage.ledger import Grouping, summarize_usage

    zone = _zone(time_zone)
    now = datetime.now(UTC)
    first = _moment(since, "--since", zone, now, end_of_day=False)
    last = None if until is None else _moment(until, "--until", zone, now, end_of_day=True)
    if last is not None and last <= first:
        raise click.UsageError("--until lies before --since: nothing is between them.")
    grouping = Grouping(_GROUPINGS[by])

    async def story(app: App) -> UsageSummary:
        tenant_id = await app.tenant_id()
        return await summarize_usage(
            app.database,
            None if grouping is Grouping.TENANT else tenant_id,
            grouping,
            since=first,
            until=last,
            time_zone=time_zone,
            limit=limit,
        )

    summary = run_with_app(read_settings(), story)
    if as_json:
        print_json(summary)
    else:
        _show(summary, by)


def _zone(name: str) -> tzinfo:
    if name.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise click.BadParameter(
            f"there is no time zone {name!r}: a name such as UTC or Europe/Berlin is wanted",
            param_hint="--time-zone",
        ) from error


def _moment(text: str, option: str, zone: tzinfo, now: datetime, *, end_of_day: bool) -> datetime:
    """A length of time before now, or a day of the zone: its beginning, or its end."""
    if len(text) == len("2026-05-01") and text[4:5] == "-":
        try:
            day = date.fromisoformat(text) + timedelta(days=end_of_day)
            return datetime.combine(day, time(), zone)
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(f"there is no day {text!r}", param_hint=option) from error
    try:
        return now - timedelta(seconds=Duration().convert(text, None, None))
    except click.BadParameter as error:
        raise click.BadParameter(
            f"a day such as 2026-05-01, or a time ago such as 12h or 30d, not {text!r}", param_hint=option
        ) from error
    except OverflowError as error:
        raise click.BadParameter(f"{text} ago there were no calendars", param_hint=option) from error


def _show(summary: UsageSummary, by: str) -> None:
    from embedmill.cli.tables import print_table

    if summary.total.calls == 0:
        print("no provider calls in that time")
        return
    rows = [_cells(one, "(none)" if one.group is None else one.group) for one in summary.rows]
    if len(rows) > 1 or summary.truncated:
        rows.append(_cells(summary.total, "all"))
    print_table(
        ("CALLS", "FAILED", "INPUTS", "TOKENS", "COST", "AVERAGE", by.upper()),
        rows,
        right="CALLS FAILED INPUTS TOKENS COST AVERAGE",
    )
    if summary.truncated:
        print(f"(the first {len(summary.rows):,}; --limit shows more)")


def _cells(one: UsageSum, name: str) -> tuple[str, ...]:
    return (
        f"{one.calls:,}",
        f"{one.failed_calls:,}",
        f"{one.inputs:,}",
        f"{one.total_tokens:,}",
        _cost(one),
        "" if one.latency_ms_average is None else f"{one.latency_ms_average:,.0f} ms",
        name,
    )


def _cost(one: UsageSum) -> str:
    """What is known, and that it is not all where it is not."""
    from embedmill.cli.tables import count
    from embedmill.core.pricing import format_usd

    if one.cost_usd is None or not one.unknown_cost_calls:
        return format_usd(one.cost_usd)
    return f"{format_usd(one.cost_usd)} + unknown of {count(one.unknown_cost_calls, 'call')}"
