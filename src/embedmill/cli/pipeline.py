"""`embedmill pipeline`: make and list pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import LimitPerMinute, Text, Usd, as_json
from embedmill.cli.pipeline_migrating import migrate, prune, rollback, switch
from embedmill.cli.pipeline_options import POSITIVE, spec_options

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.database.pipelines import Pipeline
    from embedmill.embed.generation_states import GenerationState
    from embedmill.queue.sharing import Limit


@click.group()
def pipeline() -> None:
    """Pipelines: named recipes from content to vectors."""


for command in (migrate, switch, rollback, prune):
    pipeline.add_command(command)


@pipeline.command()
@click.argument("name")
@click.option("--model", required=True, help="The model's name; for local also a folder or a hub id.")
@click.option(
    "--provider",
    default="openai",
    show_default=True,
    help="local, or openai for any OpenAI-compatible server.",
)
@click.option("--dimensions", type=POSITIVE, help="Default: the model's own, where it is known.")
@click.option(
    "--chunk-tokens",
    type=int,
    default=256,
    show_default=True,
    help="The longest chunk, in tokens of the model.",
)
@click.option(
    "--chunk-overlap",
    type=int,
    default=32,
    show_default=True,
    help="Tokens a chunk repeats of the one before.",
)
@click.option(
    "--storage",
    type=click.Choice(["vector", "halfvec"]),
    default="vector",
    show_default=True,
    help="4 bytes a number, or 2.",
)
@click.option(
    "--price-per-million-tokens",
    type=Usd(),
    help="US dollars. Default: the published price, where it is known.",
)
@click.option(
    "--calls-per-minute",
    type=LimitPerMinute(),
    help="For the whole fleet: a number, unlimited, or default (api_quota_per_minute of the configuration). "
    "Neither limit said: default on OpenAI itself, else unlimited.",
)
@click.option(
    "--tokens-per-minute",
    type=LimitPerMinute(),
    help="The same of tokens (default: token_quota_per_minute).",
)
@click.option(
    "--quota-key",
    type=Text(),
    help="Share the limits of this key with other pipelines. Default: a key of its own.",
)
@click.option(
    "--language", default="english", show_default=True, help="PostgreSQL text search configuration."
)
@click.option(
    "--timeout-seconds", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Of a call."
)
@spec_options
@as_json
def create(
    name: str,
    model: str,
    provider: str,
    dimensions: int | None,
    chunk_tokens: int,
    chunk_overlap: int,
    storage: str,
    price_per_million_tokens: Decimal | None,
    calls_per_minute: Limit | None,
    tokens_per_minute: Limit | None,
    quota_key: str | None,
    language: str,
    timeout_seconds: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a pipeline with its table of vectors, its quota and its view."""
    from embedmill.cli.running import read_settings, run_with_app
    from embedmill.core.documents import ChunkPlan
    from embedmill.ports import ProviderSpec

    explicit = {key: value for key, value in given.items() if value is not None}
    spec = ProviderSpec(
        provider=provider,
        model=model,
        dimensions=dimensions or 0,
        timeout_seconds=timeout_seconds,
        **explicit,
    )

    async def story(app: App) -> Pipeline:
        return await app.create_pipeline(
            name,
            spec,
            explicit=frozenset(explicit),
            storage=storage,
            chunk_plan=ChunkPlan(chunk_tokens, chunk_overlap),
            text_search_config=language,
            price_per_million_tokens=price_per_million_tokens,
            calls_per_minute=calls_per_minute,
            tokens_per_minute=tokens_per_minute,
            quota_key=quota_key,
        )

    _show_one(run_with_app(read_settings(), story), as_json)


@pipeline.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the pipelines."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.database.pipelines import list_pipelines

    async def story(app: App) -> list[Pipeline]:
        return await list_pipelines(app.database, await app.tenant_id())

    pipelines = run_with_app(read_settings(), story)
    if as_json:
        print_json([_record(one) for one in pipelines])
        return
    for one in pipelines:
        spec = one.generation.spec
        print(
            f"{one.name:<20} {spec.provider:<8} {spec.model}  "
            f"{one.generation.dimensions} dimensions ({one.generation.storage})"
            + (", paused" if one.paused_at else "")
        )


@pipeline.command()
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show all of one pipeline."""
    from embedmill.cli.running import read_settings, run_with_app

    async def story(app: App) -> tuple[Pipeline, list[GenerationState]]:
        shown = await app.pipeline(name)
        return shown, await app.migrations(shown).states()

    shown, generations = run_with_app(read_settings(), story)
    _show_one(shown, as_json, generations)


def _show_one(shown: Pipeline, as_json: bool, generations: Sequence[GenerationState] = ()) -> None:
    from embedmill.cli.generation_table import generation_record, show_generations
    from embedmill.cli.running import print_json

    record = _record(shown)
    if as_json:
        several = {"generations": [generation_record(each) for each in generations]} if generations else {}
        print_json({**record, **several})
        return
    defaults = " (the configuration's default)" if shown.uses_default_quota else ""
    for key, value in record.items():
        if key in ("calls_per_minute", "tokens_per_minute"):
            print(f"{key:<26} {'unlimited' if value is None else f'{value}{defaults}'}")
        elif value not in (None, {}, "") and key != "uses_default_quota":
            print(f"{key:<26} {value}")
    if record["price_per_million_tokens"] is None:
        print(f"{'price_per_million_tokens':<26} unknown: costs will read 'unknown', not 0")
    if generations:
        show_generations(list(generations))


def _record(shown: Pipeline) -> dict[str, Any]:
    import msgspec

    spec = msgspec.structs.asdict(shown.generation.spec)
    price = shown.price_per_million_tokens
    return {
        "name": shown.name,
        **spec,
        "storage": shown.generation.storage,
        "chunk_tokens": shown.chunk_plan.max_tokens,
        "chunk_overlap": shown.chunk_plan.overlap_tokens,
        "language": shown.text_search_config,
        "price_per_million_tokens": None if price is None else float(price),
        "calls_per_minute": shown.calls_per_minute,
        "tokens_per_minute": shown.tokens_per_minute,
        "uses_default_quota": shown.uses_default_quota,
        "quota_key": shown.quota_key,
        "paused_at": None if shown.paused_at is None else shown.paused_at.isoformat(),
        "view": f"embedmill.{shown.view_name}",
        "vectors": f"embedmill.vectors_{shown.generation.id}",
    }
