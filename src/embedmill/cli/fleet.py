"""`embedmill fleet`: the workers of all machines, and asking one of them to stop. Owns how they are shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.fleet.roster import Asked, RosterEntry


@click.group()
def fleet() -> None:
    """The workers of all machines: what each does; drain one."""


@fleet.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the workers that are at work or were within a day, with what each holds."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.fleet.roster import list_workers

    async def story(app: App) -> list[RosterEntry]:
        return await list_workers(app.database)

    workers = run_with_app(read_settings(), story)
    if as_json:
        print_json(workers)
        return
    _show(workers)


@fleet.command()
@click.argument("ids", type=Text(), nargs=-1, required=True)
@as_json
def drain(ids: tuple[str, ...], as_json: bool) -> None:
    """Ask workers to stop in order, by their ids or the beginnings of these: calls under way are written, the rest goes
    back to the queue.

    A supervisor (`embedmill up`, `embedmill worker --processes`) keeps the place of a drained worker empty until
    `embedmill fleet replace`, and starts no more workers meanwhile. Whatever else starts workers (systemd, Kubernetes)
    does as it is told there.
    """
    from embedmill.fleet.roster import drain_worker

    _ask(ids, drain_worker, "is stopping in order", "was asked to stop already", as_json=as_json)


@fleet.command()
@click.argument("ids", type=Text(), nargs=-1, required=True)
@as_json
def replace(ids: tuple[str, ...], as_json: bool) -> None:
    """Let the supervisors of drained workers start others in their places."""
    from embedmill.fleet.roster import replace_worker

    _ask(ids, replace_worker, "may be replaced: its supervisor starts another", "", as_json=as_json)


def _ask(
    ids: tuple[str, ...], act: Callable[..., Awaitable[Asked]], said: str, was_so: str, *, as_json: bool
) -> None:
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app

    async def story(app: App) -> list[Asked]:
        return [await act(app.database, one, actor=local_actor()) for one in dict.fromkeys(ids)]

    asked = run_with_app(read_settings(), story)
    if as_json:
        print_json(asked)
        return
    for one in asked:
        print(f"worker {one.id} ({one.host}, pid {one.pid}) {said if one.changed else was_so}")


def _show(workers: list[RosterEntry]) -> None:
    from embedmill.cli.tables import print_below, print_table, since

    if not workers:
        print("no workers within a day: start one with `embedmill worker`")
        return
    print_table(
        ("ID", "HOST", "PID", "STATE", "BEAT", "HOLDS", "RATE", "ERRORS", "429S"),
        [
            (
                str(one.id),
                one.host,
                str(one.pid),
                one.state + (", leads" if one.leads else ""),
                f"{since(one.heartbeat_at)} ago",
                _holds(one) or "",
                f"{one.chunks_per_minute:,.0f}/min" if one.recent_chunks else "",
                f"{one.errors:,}",
                f"{one.rate_limits_hit:,}",
            )
            for one in workers
        ],
        right="PID ERRORS 429S",
    )
    said = [one for one in workers if one.last_error]
    if said:
        print()
    for one in said:
        print_below(f"{one.host} {one.pid}: {one.last_error}", indent=0)


def _holds(one: RosterEntry) -> str:
    from embedmill.cli.tables import count

    held = [count(one.items_held, "item")] if one.items else []
    held += [count(len(one.documents), "document")] if one.documents else []
    return ", ".join(held + [f"reads {source}" for source in one.sources])
