"""`embedmill config`: the queue's configuration while it runs, and who changed what. Owns how it is shown; bounds and
defaults stand in the database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.queue.administration import AuditRecord
    from embedmill.queue.config import Setting


_IDS_TOLD = 5


@click.group()
def config() -> None:
    """The queue's configuration: workers take up every change within seconds."""


@config.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List every setting with its value, its default where it differs, and who changed it last."""
    from embedmill.cli.running import print_json

    settings = _read()
    if as_json:
        print_json(settings)
        return
    wide = max(len(setting.key) for setting in settings)
    for setting in settings:
        _show(setting, wide)


@config.command()
@click.argument("key", type=Text())
@as_json
def get(key: str, as_json: bool) -> None:
    """Print one setting's value."""
    from embedmill.cli.running import print_json

    setting = _find(_read(), key)
    if as_json:
        print_json(setting)
    else:
        print(_text(setting.value))


@config.command("set")
@click.argument("key", type=Text())
@click.argument("value", type=Text())
@as_json
def set_(key: str, value: str, as_json: bool) -> None:
    """Change a setting. Values are numbers, true or false, or JSON: {"high": 3, "medium": 2, "low": 1}."""
    _change([key], value, as_json)


@config.command()
@click.argument("key", type=Text(), required=False)
@click.option("--all", "everything", is_flag=True, help="Every setting that was changed.")
@as_json
def reset(key: str | None, everything: bool, as_json: bool) -> None:
    """Put a setting back to its default."""
    if (key is None) != everything:
        raise click.UsageError("name one setting (`embedmill config list`), or say --all.")
    keys = [key] if key is not None else [one.key for one in _read() if one.value != one.default]
    if not keys and not as_json:
        print("nothing to do: every setting has its default")
        return
    _change(keys, None, as_json)


@config.command()
@click.option(
    "--limit", type=click.IntRange(1, 10000), default=20, show_default=True, help="How many at most."
)
@as_json
def log(limit: int, as_json: bool) -> None:
    """Show the audit log, newest first: settings, quotas and tenants changed, items retried, cancelled, paused."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.administration import read_audit_log

    async def story(app: App) -> list[AuditRecord]:
        return await read_audit_log(app.database, await app.tenant_id(), limit=limit)

    records = run_with_app(read_settings(), story)
    if as_json:
        print_json(records)
        return
    from embedmill.cli.tables import local_time

    for record in records:
        print(
            f"{local_time(record.at)}  {record.actor}  {record.action} {record.subject}{_change_of(record)}"
        )
    if not records:
        print("nothing was done yet")


def _read() -> list[Setting]:
    from embedmill.cli.running import read_settings, run_with_app
    from embedmill.queue.config import list_settings

    async def story(app: App) -> list[Setting]:
        return await list_settings(app.database)

    return run_with_app(read_settings(), story)


def _change(keys: list[str], value: str | None, as_json: bool) -> None:
    """Set these (None: to the default), and say old -> new."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.config import list_settings, set_value

    async def story(app: App) -> list[tuple[Setting, Any]]:
        # Lower bounds first: an upper one cannot go below them.
        ordered = sorted(keys, key=lambda key: (not key.startswith("min_"), key))
        before = {key: await set_value(app.database, key, value, actor=local_actor()) for key in ordered}
        now = await list_settings(app.database)
        return [(_find(now, key), old) for key, old in before.items()]

    changed = run_with_app(read_settings(), story)
    if as_json:
        print_json([{"key": one.key, "old": old, "new": one.value} for one, old in changed])
        return
    for setting, old in changed:
        if old == setting.value:
            print(f"{setting.key}: {_text(old)}, as it was")
        else:
            print(f"{setting.key}: {_text(old)} -> {_text(setting.value)}")
    if any(old != setting.value for setting, old in changed):
        print("workers take it up within seconds")


def _find(settings: list[Setting], key: str) -> Setting:
    from embedmill.errors import NotFoundError

    found = next((setting for setting in settings if setting.key == key), None)
    if found is None:
        known = ", ".join(setting.key for setting in settings)
        raise NotFoundError(f"there is no setting {key!r}; there are: {known}")
    return found


def _show(setting: Setting, wide: int) -> None:
    from datetime import datetime

    from embedmill.cli.tables import local_time, print_below

    is_changed = setting.value != setting.default
    default = f"   (default: {_text(setting.default)})" if is_changed else ""
    print(f"{setting.key:<{wide}}  {_text(setting.value)}{default}")
    print_below(setting.description, indent=4, wrap=True)
    if setting.updated_at is not None:
        when = local_time(datetime.fromisoformat(setting.updated_at))
        print_below(f"changed {when} by {setting.actor}", indent=4)


def _text(value: Any) -> str:
    """As a person types it."""
    return json.dumps(value, ensure_ascii=False)


def _change_of(record: AuditRecord) -> str:
    old, new = record.old_value, record.new_value
    if isinstance(new, dict) and "done" in new:
        chosen = ", ".join(f"{key} {_told(value)}" for key, value in new.get("selection", {}).items())
        done = ", ".join(f"{number:,} {key.replace('_', ' ')}" for key, number in new["done"].items())
        return f" ({chosen or 'all'}): {done}"
    if new is None:
        return ""
    return f": {_text(new)}" if old is None else f": {_text(old)} -> {_text(new)}"


def _told(value: Any) -> str:
    """A filter's value; of many ids the first ones."""
    if isinstance(value, list):
        more = f" and {len(value) - _IDS_TOLD} more" if len(value) > _IDS_TOLD else ""
        return "/".join(map(str, value[:_IDS_TOLD])) + more
    return str(value)
