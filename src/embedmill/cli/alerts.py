"""`embedmill alerts`: what needs attention, and that somebody has seen it. Owns how alerts are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Duration, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.queue.alerts import Alert

_MOST_RESOLVED = 200


@click.group(invoke_without_command=True)
@click.option("--all", "wants_all", is_flag=True, help="Those too that were resolved, the newest first.")
@as_json
@click.pass_context
def alerts(context: click.Context, wants_all: bool, as_json: bool) -> None:
    """Show what needs attention: of the tenant and of the installation, each with what to do next.

    Ends with 0 whether there are any or not."""
    if context.invoked_subcommand is not None:
        return
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.alerts import list_alerts, open_alerts

    async def story(app: App) -> list[Alert]:
        tenant_id = await app.tenant_id()
        found = await open_alerts(app.database, tenant_id, with_installation=True)
        if wants_all:
            found += await list_alerts(
                app.database, tenant_id, with_installation=True, state="resolved", limit=_MOST_RESOLVED
            )
        return found

    found = run_with_app(read_settings(), story, connections=1)
    if as_json:
        print_json(found)
    elif not found:
        print("no alerts" + ("" if wants_all else " are open"))
    for one in [] if as_json else found:
        _show(one)


@alerts.command()
@click.argument("alert_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@click.option(
    "--for",
    "silence",
    type=Duration(),
    help="Be silent about it for so long: 30m, 4h, 7d.  [default: until resolved]",
)
@as_json
def acknowledge(alert_id: int, silence: float | None, as_json: bool) -> None:
    """Say that somebody has seen an alert: webhooks are told no more of it, also where it comes back meanwhile."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.alerts import acknowledge as acknowledge_alert

    async def story(app: App) -> Alert:
        return await acknowledge_alert(
            app.database,
            await app.tenant_id(),
            alert_id,
            with_installation=True,
            seconds=silence,
            actor=local_actor(),
        )

    changed = run_with_app(read_settings(), story, connections=1)
    if as_json:
        print_json(changed)
    else:
        _show(changed)


def _show(alert: Alert) -> None:
    from embedmill.cli.tables import print_below

    print(f"{alert.id}  {alert.severity}  {alert.kind}{_of(alert)}  {_state(alert)}")
    print_below(alert.message, indent=4, wrap=True)


def _of(alert: Alert) -> str:
    return f" ({alert.subject})" if alert.subject else ""


def _state(alert: Alert) -> str:
    from embedmill.cli.tables import local_time, since

    if alert.resolved_at is not None:
        return f"resolved {local_time(alert.resolved_at)}, raised {local_time(alert.raised_at)}"
    state = f"raised {since(alert.raised_at)} ago"
    if alert.acknowledged_at is not None:
        until = "it is resolved" if alert.silenced_until is None else local_time(alert.silenced_until)
        state += f", acknowledged by {alert.acknowledged_by}, silent until {until}"
    return state


def summarize(alerts: list[Alert]) -> dict[str, Any]:
    """What `embedmill status` says of open alerts that nobody has acknowledged."""
    heeded = [alert for alert in alerts if alert.needs_attention]
    return {
        "open": len(alerts),
        "critical": sum(alert.severity == "critical" for alert in heeded),
        "warning": sum(alert.severity == "warning" for alert in heeded),
        "acknowledged": len(alerts) - len(heeded),
        "first_message": heeded[0].message if heeded else None,
    }
