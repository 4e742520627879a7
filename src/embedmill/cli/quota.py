"""`embedmill quota`: limits of calls and tokens a minute, and how much of them is used. Owns how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from embedmill.cli.options import LimitPerMinute, Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.queue.sharing import Limit, Quota


@click.group()
def quota() -> None:
    """Quotas: calls and tokens a minute that all workers share."""


@quota.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List quota keys with their limits, what was used within the last minute, and the pipelines that share them."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.sharing import list_quotas

    async def story(app: App) -> list[Quota]:
        return await list_quotas(app.database, await app.tenant_id())

    quotas = run_with_app(read_settings(), story)
    if as_json:
        print_json(quotas)
        return
    for one in quotas:
        _show(one)


@quota.command("set")
@click.argument("key", type=Text())
@click.option("--calls-per-minute", type=LimitPerMinute(), help="A number, unlimited, or default.")
@click.option("--tokens-per-minute", type=LimitPerMinute(), help="A number, unlimited, or default.")
@as_json
def set_(key: str, calls_per_minute: Limit | None, tokens_per_minute: Limit | None, as_json: bool) -> None:
    """Change the limits of a quota key, for all pipelines that share it. default: api_quota_per_minute and
    token_quota_per_minute of the configuration."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.sharing import set_quota

    if calls_per_minute is None and tokens_per_minute is None:
        raise click.UsageError("say --calls-per-minute, --tokens-per-minute, or both.")

    async def story(app: App) -> Quota:
        return await set_quota(
            app.database,
            await app.tenant_id(),
            key,
            calls=calls_per_minute,
            tokens=tokens_per_minute,
            actor=local_actor(),
        )

    changed = run_with_app(read_settings(), story)
    if as_json:
        print_json(changed)
    else:
        _show(changed)


def _show(quota: Quota) -> None:
    from embedmill.cli.tables import print_below, span

    print(quota.quota_key)
    for noun, used, limit, own in (
        ("calls", quota.calls_used, quota.calls_per_minute, quota.own_calls_per_minute),
        ("tokens", quota.tokens_used, quota.tokens_per_minute, quota.own_tokens_per_minute),
    ):
        if limit is None:
            print(f"    {noun:<6}  unlimited")
        else:
            default = " (the configuration's default)" if own is None else ""
            print(f"    {noun:<6}  {used:,} of {limit:,} used within the last minute{default}")
    if quota.cooling_seconds > 0:
        why = f": {quota.cooldown_reason}" if quota.cooldown_reason else ""
        print_below(f"holds back for {span(quota.cooling_seconds)}{why}", indent=4, wrap=True)
    elif quota.binds:
        print("    work waits for it")
    print_below(f"shared by {', '.join(quota.pipelines) or 'no pipeline'}", indent=4, wrap=True)
