"""`embedmill tenant`: tenants, and their parts of the workers. Owns how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedmill.app import App
    from embedmill.cli.tenant_limits import ServiceLimits
    from embedmill.queue.sharing import Tenant

    Listed = list[tuple[Tenant, ServiceLimits]]

_LARGEST_CAP = 2_000_000_000


class Cap(click.ParamType["int | Literal['none']"]):
    """The most items of a tenant in work at once, or no cap."""

    name = "number|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["none"]:
        text = str(value).strip().lower()
        if text == "none":
            return "none"
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:11]) <= _LARGEST_CAP):
            self.fail(f"a number from 1, or none, not {value!r}", param, ctx)
        return int(text)


class ServiceLimit(click.ParamType["int | Literal['default']"]):
    """A limit of the service for one tenant, or that of the settings."""

    name = "number|default"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["default"]:
        text = str(value).strip().lower()
        if text == "default":
            return "default"
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:11]) <= _LARGEST_CAP):
            self.fail(f"a number from 1, or default, not {value!r}", param, ctx)
        return int(text)


_weight = click.FloatRange(0.001, 1000)
_LIMITS = (
    click.option("--requests-per-minute", type=ServiceLimit(), help="Requests to a service process."),
    click.option("--max-file-mb", type=ServiceLimit(), help="The largest file of an upload, in MiB."),
    click.option("--max-staged-jobs", type=ServiceLimit(), help="Jobs that may wait for a parser."),
)
_BYTES_IN_MB = 1024 * 1024


def service_limits(command: Callable[..., None]) -> Callable[..., None]:
    """The options for the service's limits; `default`: as the settings say."""
    for option in reversed(_LIMITS):
        command = option(command)
    return command


@click.group()
def tenant() -> None:
    """Tenants: who owns what, and how the workers are divided among them."""


@tenant.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the tenants with weight, cap, limits of the service, and what they have in the queue."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tenant_limits import ServiceLimits, read_limits
    from embedmill.queue.sharing import list_tenants

    async def story(app: App) -> Listed:
        limits = await read_limits(app.database)
        return [(one, limits.get(one.slug, ServiceLimits())) for one in await list_tenants(app.database)]

    tenants = run_with_app(read_settings(), story)
    if as_json:
        print_json([_fields(*one) for one in tenants])
    else:
        _show(tenants)


@tenant.command()
@click.argument("slug", type=Text())
@click.option("--weight", type=_weight, default=1.0, show_default=True, help="Its part, beside others.")
@click.option("--max-processing-items", type=Cap(), help="The most of its items in work at once.")
@service_limits
@as_json
def create(
    slug: str,
    weight: float,
    max_processing_items: int | Literal["none"] | None,
    as_json: bool,
    **limits: int | Literal["default"] | None,
) -> None:
    """Make a tenant. EMBEDMILL_TENANT says on whose behalf a command works."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tenant_limits import read_limits, set_limits
    from embedmill.queue.sharing import create_tenant

    cap = max_processing_items if isinstance(max_processing_items, int) else None
    changes = _changes(limits)

    async def story(app: App) -> tuple[Tenant, ServiceLimits]:
        made = await create_tenant(
            app.database, slug, weight=weight, max_processing_items=cap, actor=local_actor()
        )
        await set_limits(app.database, slug, changes, actor=local_actor())
        return made, (await read_limits(app.database, slug))[slug]

    made = run_with_app(read_settings(), story)
    if as_json:
        print_json(_fields(*made))
        return
    _show([made])
    print(f"its first pipeline: EMBEDMILL_TENANT={slug} embedmill pipeline create NAME ...")


@tenant.command("set")
@click.argument("slug", type=Text())
@click.option("--weight", type=_weight, help="Its part of the workers, beside others.")
@click.option(
    "--max-processing-items", type=Cap(), help="The most of its items in work at once; none: no cap."
)
@service_limits
@as_json
def set_(
    slug: str,
    weight: float | None,
    max_processing_items: int | Literal["none"] | None,
    as_json: bool,
    **limits: int | Literal["default"] | None,
) -> None:
    """Change a tenant's weight or cap: the next claims go by it; or limits of the service (default: as the settings
    say), which it takes up within ten seconds."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tenant_limits import read_limits, set_limits
    from embedmill.queue.sharing import set_tenant

    changes = _changes(limits)
    if weight is None and max_processing_items is None and not changes:
        raise click.UsageError("say what to change: --weight, --max-processing-items, or a limit (--help).")

    async def story(app: App) -> tuple[Tenant, ServiceLimits]:
        await set_limits(app.database, slug, changes, actor=local_actor())
        changed = await set_tenant(
            app.database,
            slug,
            weight=weight,
            max_processing_items=max_processing_items,
            actor=local_actor(),
        )
        return changed, (await read_limits(app.database, slug))[slug]

    changed = run_with_app(read_settings(), story)
    if as_json:
        print_json(_fields(*changed))
    else:
        _show([changed])


def _changes(limits: dict[str, int | Literal["default"] | None]) -> dict[str, int | None]:
    """What was said of the service's limits, as it is stored."""
    changes: dict[str, int | None] = {}
    for name, said in limits.items():
        if said is None:
            continue
        value = None if said == "default" else said
        if name == "max_file_mb":
            changes["max_file_bytes"] = None if value is None else value * _BYTES_IN_MB
        else:
            changes[name] = value
    return changes


def _fields(tenant: Tenant, limits: ServiceLimits) -> dict[str, Any]:
    import msgspec

    return {**msgspec.structs.asdict(tenant), **msgspec.structs.asdict(limits)}


def _limits_in_words(limits: ServiceLimits) -> str:
    words = []
    if limits.requests_per_minute is not None:
        words.append(f"{limits.requests_per_minute:,} requests a minute")
    if limits.max_file_bytes is not None:
        words.append(f"files to {limits.max_file_bytes / _BYTES_IN_MB:,.0f} MiB")
    if limits.max_staged_jobs is not None:
        words.append(f"{limits.max_staged_jobs:,} staged jobs")
    return ", ".join(words) or "default"


def _show(tenants: Listed) -> None:
    from embedmill.cli.tables import print_table

    print_table(
        ("WEIGHT", "CAP", "PIPELINES", "WAITING", "IN WORK", "TENANT", "LIMITS"),
        [
            (
                f"{one.weight:g}",
                "none" if one.max_processing_items is None else f"{one.max_processing_items:,}",
                str(one.pipelines),
                f"{one.items_waiting:,}",
                f"{one.items_in_work:,}",
                one.slug,
                _limits_in_words(limits),
            )
            for one, limits in tenants
        ],
        right="WEIGHT CAP PIPELINES WAITING IN WORK",
    )
