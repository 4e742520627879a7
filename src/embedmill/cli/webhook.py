"""`embedmill webhook`: where events are sent to, and what became of them. Owns how they are shown."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from embedmill.cli.options import Duration, Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.ports import PostAnswer
    from embedmill.settings import Settings
    from embedmill.webhooks.deliveries import Delivery
    from embedmill.webhooks.registry import Webhook
    from embedmill.webhooks.signing import WebhookSecrets

webhook_id = click.argument("webhook_id", metavar="ID", type=click.UUID)
event_types = click.option(
    "--event",
    "event_types",
    type=Text(),
    multiple=True,
    metavar="TYPE",
    help="Only this type of event, such as job.completed; may be given several times.  [default: all]",
)
_STATUSES = ("pending", "delivered", "failed")


@click.group()
def webhook() -> None:
    """Webhooks: events sent to a URL of yours, signed. The service (`embedmill up`) sends them."""


@webhook.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the webhooks of the tenant, oldest first."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tables import print_table
    from embedmill.webhooks.registry import list_webhooks

    async def story(app: App) -> list[Webhook]:
        return await list_webhooks(app.database, await app.tenant_id())

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json(found)
    elif not found:
        print("no webhooks: `embedmill webhook add URL` makes one")
    else:
        print_table(
            ("ID", "STATE", "EVENTS", "URL"),
            [(str(one.id), _state(one), ", ".join(one.event_types) or "all", one.url) for one in found],
        )


@webhook.command()
@click.argument("url", type=Text())
@event_types
@click.option("--description", type=Text(), default="", help="What it is for, for people.")
@as_json
def add(url: str, event_types: tuple[str, ...], description: str, as_json: bool) -> None:
    """Have events sent to a URL. Prints the secret that its receiver checks signatures with."""
    from embedmill.app import build_poster
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.webhooks.registry import create_webhook

    settings = read_settings()
    secrets = _secrets(settings)

    async def story(app: App) -> Webhook:
        return await create_webhook(
            app.database,
            await app.tenant_id(),
            build_poster(settings),
            url=url,
            event_types=event_types,
            description=description,
            actor=local_actor(),
        )

    made = run_with_app(settings, story)
    _tell_secret(made, secrets, as_json=as_json, print_json=print_json)


@webhook.command("set")
@webhook_id
@click.option("--url", type=Text(), help="Send to this URL from now on.")
@event_types
@click.option("--all-events", is_flag=True, help="Send every type of event again.")
@click.option("--description", type=Text(), help="What it is for, for people.")
@click.option("--on/--off", "is_active", default=None, help="Switch it on or off; off gives up what waits.")
@as_json
def set_(
    webhook_id: UUID,
    url: str | None,
    event_types: tuple[str, ...],
    all_events: bool,
    description: str | None,
    is_active: bool | None,
    as_json: bool,
) -> None:
    """Change a webhook; what is left out stays as it is."""
    from embedmill.app import build_poster
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.webhooks.registry import update_webhook

    if all_events and event_types:
        raise click.UsageError("--all-events stands alone: leave out --event.")
    if (url, description, is_active) == (None, None, None) and not (event_types or all_events):
        raise click.UsageError(
            "say what to change: --url, --event, --all-events, --description, --on, --off."
        )
    settings = read_settings()
    types = event_types if event_types or all_events else None

    async def story(app: App) -> Webhook:
        return await update_webhook(
            app.database,
            await app.tenant_id(),
            webhook_id,
            build_poster(settings),
            url=url,
            event_types=types,
            description=description,
            is_active=is_active,
            actor=local_actor(),
        )

    changed = run_with_app(settings, story)
    if as_json:
        print_json(changed)
    else:
        print(f"{_state(changed)}: {', '.join(changed.event_types) or 'all events'} to {changed.url}")


@webhook.command("rotate-secret")
@webhook_id
@as_json
def rotate_secret(webhook_id: UUID, as_json: bool) -> None:
    """Make a new secret. Until the one after it, messages are signed with this one and the one before."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.webhooks.registry import rotate_secret as rotate

    settings = read_settings()
    secrets = _secrets(settings)

    async def story(app: App) -> Webhook:
        return await rotate(app.database, await app.tenant_id(), webhook_id, actor=local_actor())

    changed = run_with_app(settings, story)
    _tell_secret(changed, secrets, as_json=as_json, print_json=print_json)


@webhook.command()
@webhook_id
def remove(webhook_id: UUID) -> None:
    """Remove a webhook with its log; what waits is not sent."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import read_settings, run_with_app
    from embedmill.webhooks.registry import delete_webhook

    async def story(app: App) -> None:
        await delete_webhook(app.database, await app.tenant_id(), webhook_id, actor=local_actor())

    run_with_app(read_settings(), story)
    print("removed, with its deliveries")


@webhook.command()
@webhook_id
@as_json
def test(webhook_id: UUID, as_json: bool) -> None:
    """Send a test call now, from this machine, and tell what came back; exit status 1 where it was not taken."""
    from embedmill.app import build_poster
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.webhooks.attempts import send_test

    settings = read_settings()
    secrets = _secrets(settings)

    async def story(app: App) -> tuple[UUID, PostAnswer]:
        return await send_test(
            app.database,
            await app.tenant_id(),
            webhook_id,
            build_poster(settings),
            secrets,
            at=datetime.now(UTC),
        )

    delivery_id, answer = run_with_app(settings, story)
    was_taken = answer.status is not None and 200 <= answer.status < 300
    if as_json:
        print_json({"delivery_id": delivery_id, "status": answer.status, "problem": answer.problem})
    elif was_taken:
        print(f"taken: its server answered {answer.status}")
    else:
        print(f"not taken: {answer.problem or f'its server answered {answer.status}'}")
    if not was_taken:
        sys.exit(1)


@webhook.command()
@webhook_id
@click.option("--status", "statuses", type=click.Choice(_STATUSES), multiple=True)
@click.option("--after", type=click.UUID, help="Go on after this delivery: the last one of the page before.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many at most."
)
@as_json
def deliveries(
    webhook_id: UUID, statuses: tuple[Any, ...], after: UUID | None, limit: int, as_json: bool
) -> None:
    """List what was sent, or waits to be, newest first."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.webhooks.deliveries import DeliveryCursor, get_delivery, list_deliveries

    async def story(app: App) -> list[Delivery]:
        tenant_id = await app.tenant_id()
        last = None if after is None else await get_delivery(app.database, tenant_id, after)
        before = None if last is None else DeliveryCursor(last.created_at, last.id)
        return await list_deliveries(
            app.database, tenant_id, webhook_id, statuses=statuses or None, limit=limit, before=before
        )

    found = run_with_app(read_settings(), story)
    if as_json:
        print_json([{**_fields(one), "payload": _decoded(one)} for one in found])
        return
    _show_deliveries(found)
    if len(found) == limit:
        print(f"more: --after {found[-1].id}")
    elif not found:
        print("nothing more" if after else "nothing was sent")


@webhook.command()
@click.argument("deliveries", metavar="DELIVERY...", type=click.UUID, nargs=-1)
@click.option("--webhook", "webhook_id", type=click.UUID, help="All that this webhook did not get ...")
@click.option("--failed-within", type=Duration(), help="... within this time: 12h, 2d.")
@as_json
def redeliver(
    deliveries: tuple[UUID, ...], webhook_id: UUID | None, failed_within: float | None, as_json: bool
) -> None:
    """Send deliveries again, under their own ids: by id, or all of a webhook that were given up of late."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.webhooks import deliveries as log

    if (webhook_id is None) != (failed_within is None) or bool(deliveries) == (webhook_id is not None):
        raise click.UsageError("name deliveries, or --webhook ID together with --failed-within 2d.")

    async def story(app: App) -> int:
        tenant_id = await app.tenant_id()
        if webhook_id is not None and failed_within is not None:
            since = datetime.now(UTC) - timedelta(seconds=failed_within)
            return await log.redeliver_failed(
                app.database, tenant_id, webhook_id, since=since, actor=local_actor()
            )
        for one in deliveries:
            await log.redeliver(app.database, tenant_id, one, actor=local_actor())
        return len(deliveries)

    number = run_with_app(read_settings(), story)
    if as_json:
        print_json({"redelivered": number})
    elif number:
        print(f"{number:,} deliver{'y' if number == 1 else 'ies'}: sent again by the service")
    else:
        print("nothing was given up in that time")


def _secrets(settings: Settings) -> WebhookSecrets:
    """Derived from the pepper, which the service must share."""
    from embedmill.access.pepper import read_pepper
    from embedmill.app import has_service_parts
    from embedmill.errors import ConfigurationError

    if not has_service_parts():
        raise ConfigurationError("the service is not installed: pip install 'embedmill[service]'")
    from embedmill.webhooks.signing import WebhookSecrets

    return WebhookSecrets(read_pepper(settings.data_dir))


def _tell_secret(webhook: Webhook, secrets: WebhookSecrets, *, as_json: bool, print_json: Any) -> None:
    secret = secrets.secret_for(webhook.id, webhook.secret_version)
    if as_json:
        print_json({**_fields(webhook), "secret": secret})
        return
    print(secret)
    click.echo(
        f"webhook {webhook.id} to {webhook.url}. Its receiver checks signatures with the secret above; "
        f"`embedmill webhook test {webhook.id}` sends a first message.",
        err=True,
    )


def _state(webhook: Webhook) -> str:
    if webhook.is_active:
        return "on"
    return f"off ({webhook.disabled_reason})" if webhook.disabled_reason else "off"


def _show_deliveries(found: list[Delivery]) -> None:
    from embedmill.cli.tables import local_time, print_table

    print_table(
        ("ID", "MADE", "STATUS", "ATTEMPTS", "EVENT", "LAST ANSWER"),
        [
            (
                str(one.id),
                local_time(one.created_at),
                one.status,
                str(one.attempts),
                one.event_type,
                one.error or ("" if one.response_status is None else str(one.response_status)),
            )
            for one in found
        ],
        right="ATTEMPTS",
    )


def _fields(struct: Any) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(struct)


def _decoded(delivery: Delivery) -> Any:
    import msgspec

    return msgspec.json.decode(delivery.payload)
