"""`embedmill tenant`: tenants, and their parts of the workers. Owns how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from embedmill.cli.options import Text, as_json

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.queue.sharing import Tenant

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


_weight = click.FloatRange(0.001, 1000)


@click.group()
def tenant() -> None:
    """Tenants: who owns what, and how the workers are divided among them."""


@tenant.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the tenants with weight, cap, and what they have in the queue."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.sharing import list_tenants

    async def story(app: App) -> list[Tenant]:
        return await list_tenants(app.database)

    tenants = run_with_app(read_settings(), story)
    if as_json:
        print_json(tenants)
    else:
        _show(tenants)


@tenant.command()
@click.argument("slug", type=Text())
@click.option("--weight", type=_weight, default=1.0, show_default=True, help="Its part, beside others.")
@click.option("--max-processing-items", type=Cap(), help="The most of its items in work at once.")
@as_json
def create(
    slug: str, weight: float, max_processing_items: int | Literal["none"] | None, as_json: bool
) -> None:
    """Make a tenant. EMBEDMILL_TENANT says on whose behalf a command works."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.sharing import create_tenant

    cap = max_processing_items if isinstance(max_processing_items, int) else None

    async def story(app: App) -> Tenant:
        return await create_tenant(
            app.database, slug, weight=weight, max_processing_items=cap, actor=local_actor()
        )

    made = run_with_app(read_settings(), story)
    if as_json:
        print_json(made)
        return
    _show([made])
    print(f"its first pipeline: EMBEDMILL_TENANT={slug} embedmill pipeline create NAME ...")


@tenant.command("set")
@click.argument("slug", type=Text())
@click.option("--weight", type=_weight, help="Its part of the workers, beside others.")
@click.option(
    "--max-processing-items", type=Cap(), help="The most of its items in work at once; none: no cap."
)
@as_json
def set_(
    slug: str, weight: float | None, max_processing_items: int | Literal["none"] | None, as_json: bool
) -> None:
    """Change a tenant's weight or cap: the next claims go by it."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.queue.sharing import set_tenant

    if weight is None and max_processing_items is None:
        raise click.UsageError("say --weight, --max-processing-items, or both.")

    async def story(app: App) -> Tenant:
        return await set_tenant(
            app.database,
            slug,
            weight=weight,
            max_processing_items=max_processing_items,
            actor=local_actor(),
        )

    changed = run_with_app(read_settings(), story)
    if as_json:
        print_json(changed)
    else:
        _show([changed])


def _show(tenants: list[Tenant]) -> None:
    from embedmill.cli.tables import print_table

    print_table(
        ("WEIGHT", "CAP", "PIPELINES", "WAITING", "IN WORK", "TENANT"),
        [
            (
                f"{one.weight:g}",
                "none" if one.max_processing_items is None else f"{one.max_processing_items:,}",
                str(one.pipelines),
                f"{one.items_waiting:,}",
                f"{one.items_in_work:,}",
                one.slug,
            )
            for one in tenants
        ],
        right="WEIGHT CAP PIPELINES WAITING IN WORK",
    )
