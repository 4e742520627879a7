"""`embedmill keys`: keys of the API, made, listed, revoked. Owns how they are shown: a new one once and never again."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import click

from embedmill.cli.options import Duration, Text, as_json

if TYPE_CHECKING:
    from embedmill.access.keys import ApiKey, NewKey
    from embedmill.app import App


@click.group()
def keys() -> None:
    """API keys: who may use the service, for which tenant, and for what."""


@keys.command()
@click.option("--tenant", "-t", type=Text(), required=True, help="Whose rows the key opens.")
@click.option(
    "--role",
    type=click.Choice(["reader", "writer", "admin", "operator"]),
    required=True,
    help="reader: look and search; writer: also ingest, launch, cancel; admin: also keys, webhooks, budgets; "
    "operator: also all tenants, workers and the configuration (dashboard, metrics).",
)
@click.option("--name", type=Text(), help="What it is for, for people.  [default: its role]")
@click.option("--expires-in", type=Duration(), help="How long it holds, such as 90d.  [default: for ever]")
@as_json
def create(tenant: str, role: str, name: str | None, expires_in: float | None, as_json: bool) -> None:
    """Make a key and print it. It stands nowhere else: only its hash is stored."""
    from embedmill.access.keys import Role, create_key
    from embedmill.access.pepper import read_pepper
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app

    settings = read_settings()
    pepper = read_pepper(settings.data_dir)

    async def story(app: App) -> NewKey:
        return await create_key(
            app.database,
            pepper,
            tenant=tenant,
            role=Role(role),
            name=role if name is None else name,
            expires_in_seconds=expires_in,
            actor=local_actor(),
        )

    made = run_with_app(settings, story)
    if as_json:
        print_json(made)
        return
    print(made.secret)
    until = "until it is revoked"
    if made.key.expires_at is not None:
        from embedmill.cli.tables import local_time

        until = f"until {local_time(made.key.expires_at)}"
    click.echo(
        f"for tenant {made.key.tenant} as {made.key.role}, {until}. This is the only time that it is shown; "
        f"`embedmill keys revoke {made.key.id}` takes it back.",
        err=True,
    )


@keys.command("list")
@click.option("--tenant", "-t", type=Text(), help="Of this tenant only.  [default: of all]")
@as_json
def list_(tenant: str | None, as_json: bool) -> None:
    """List the keys of all tenants, newest first, those that hold no more included."""
    from embedmill.access.keys import list_keys
    from embedmill.cli.running import print_json, read_settings, run_with_app

    async def story(app: App) -> list[ApiKey]:
        return await list_keys(app.database, tenant)

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json(found)
    elif not found:
        print("no keys: `embedmill keys create --tenant TENANT --role ROLE` makes one")
    else:
        _show(found)


@keys.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@as_json
def revoke(key_id: UUID, as_json: bool) -> None:
    """Let nobody in with a key any more, from the next request on."""
    from embedmill.access.keys import revoke_key
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app

    async def story(app: App) -> tuple[ApiKey, bool]:
        return await revoke_key(app.database, key_id, actor=local_actor())

    key, was_good = run_with_app(read_settings(), story)
    if as_json:
        print_json(key)
    elif was_good:
        print(f"revoked: {key.prefix}… ({key.name}) of tenant {key.tenant}")
    else:
        print(f"it was revoked before: {key.prefix}… ({key.name}) of tenant {key.tenant}")


def _show(found: list[ApiKey]) -> None:
    from embedmill.cli.tables import local_time, print_table, since

    print_table(
        ("ID", "TENANT", "ROLE", "KEY", "STATE", "MADE", "EXPIRES", "LAST USED", "NAME"),
        [
            (
                str(one.id),
                one.tenant,
                one.role,
                f"{one.prefix}…",
                one.state,
                local_time(one.created_at),
                "never" if one.expires_at is None else local_time(one.expires_at),
                "never" if one.last_used_at is None else f"{since(one.last_used_at)} ago",
                one.name,
            )
            for one in found
        ],
    )
