"""`embedmill pipeline migrate`, `switch`, `rollback` and `prune`: from one generation of a pipeline to another. Owns
what a person asks for and how a command ends; the build that it watches is migration_run.py's."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import Usd, as_json
from embedmill.cli.pipeline_options import POSITIVE, spec_options

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.cli.migration_run import MigrationReport
    from embedmill.embed.generation_states import GenerationState


class ColumnOfTable(click.ParamType[tuple[str, str]]):
    """A table and a column of it: public.jobs=embedding_v2."""

    name = "table=column"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        table, _, column = (part.strip() for part in str(value).rpartition("="))
        if not table or not column:
            self.fail(f"{value!r} is not TABLE=COLUMN, such as public.jobs=embedding_v2", param, ctx)
        return table, column


@click.command()
@click.argument("name")
@click.option("--model", help="The model to change to. Default: the one that is live.")
@click.option("--provider", help="local, or openai for any OpenAI-compatible server. Default: as it is.")
@click.option("--dimensions", type=POSITIVE, help="Default: the model's own, where it is known.")
@click.option("--storage", type=click.Choice(["vector", "halfvec"]), help="Default: as it is.")
@click.option("--chunk-tokens", type=int, help="The longest chunk, in tokens. Default: as it is.")
@click.option(
    "--chunk-overlap", type=int, help="Tokens a chunk repeats of the one before. Default: as it is."
)
@click.option(
    "--price-per-million-tokens",
    "--price",
    "price",
    type=Usd(),
    help="US dollars. Default: the published price, where it is known.",
)
@click.option("--budget-usd", type=Usd(), help="The most that the build may cost.")
@click.option(
    "--column",
    "columns",
    type=ColumnOfTable(),
    multiple=True,
    help="For each table whose vectors stand in a column of it: the column for the new ones.",
)
@click.option("--no-switch", is_flag=True, help="Build and compare only; `pipeline switch` makes it live.")
@click.option(
    "--samples",
    type=click.IntRange(0, 10_000),
    default=100,
    show_default=True,
    help="Chunks by which the generations are compared; 0: not at all.",
)
@click.option("--cancel", is_flag=True, help="Drop the generation that is being built.")
@spec_options
@as_json
def migrate(
    name: str,
    model: str | None,
    provider: str | None,
    dimensions: int | None,
    storage: str | None,
    chunk_tokens: int | None,
    chunk_overlap: int | None,
    price: Decimal | None,
    budget_usd: Decimal | None,
    columns: tuple[tuple[str, str], ...],
    no_switch: bool,
    samples: int,
    cancel: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Change a pipeline's model, dimensions, storage or chunks: the next generation is built beside the live one from
    the stored texts, compared with it, and switched to. Searches and changes go on meanwhile.

    Running it again goes on where it stopped, without paying again; with nothing said, it goes on with whatever is
    being built. Ctrl-C keeps what is done, and workers go on with it.

    Exit status: 0 done, 1 failed, 3 the budget is used up, 130 interrupted."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, run_with_app, start
    from embedmill.embed.next_spec import Changes

    named = dict(columns)
    if len(named) < len(columns):
        raise click.UsageError("--column names a table twice.")
    if cancel:
        dropped = _act(name, lambda migrations: migrations.cancel())
        return _show_dropped([dropped], as_json)
    changes = Changes(
        model,
        provider,
        dimensions,
        storage,
        chunk_tokens,
        chunk_overlap,
        {key: value for key, value in given.items() if value is not None},
    )

    async def story(app: App) -> MigrationReport:
        from embedmill.cli.migration_run import MigrationRun, wanted_generation

        pipeline = await app.pipeline(name)
        migrations = app.migrations(pipeline, actor=local_actor())
        generation_id = await wanted_generation(app, pipeline, migrations, changes, price, budget_usd, named)
        run = MigrationRun(app, pipeline, migrations, generation_id, quiet=as_json)
        return await run.tell(switches=not no_switch, samples=samples)

    report = run_with_app(start(), story)
    if as_json:
        print_json(report)
    else:
        report.show()
    sys.exit(report.exit_status)


@click.command()
@click.argument("name")
@click.option("--to", type=POSITIVE, help="The number of a generation. Default: the next one.")
@click.option("--force", is_flag=True, help="Also one that is unfinished, or lacks something.")
@as_json
def switch(name: str, to: int | None, force: bool, as_json: bool) -> None:
    """Make a generation the live one, at once. The one before is kept current, for `pipeline rollback`."""
    _show_live(name, _act(name, lambda migrations: migrations.switch(to=to, force=force)), as_json)


@click.command()
@click.argument("name")
@as_json
def rollback(name: str, as_json: bool) -> None:
    """Go back to the generation that was live before, at once. It was kept current."""
    _show_live(name, _act(name, lambda migrations: migrations.roll_back()), as_json)


@click.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also one that was never live.")
@as_json
def prune(name: str, force: bool, as_json: bool) -> None:
    """Drop all generations but the live one, with their vectors: from then on only the live one is paid for."""
    _show_dropped(_act(name, lambda migrations: migrations.prune(force=force)), as_json)


def _act(name: str, act: Any) -> Any:
    """What can be done without a worker; after a switch the documents' counts follow."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import read_settings, run_with_app

    async def story(app: App) -> Any:
        migrations = app.migrations(await app.pipeline(name), actor=local_actor())
        plans = {each.chunk_set for each in await migrations.states()}
        done = await act(migrations)
        if len(plans) > 1:
            await migrations.count_chunks_again()
        return done

    return run_with_app(read_settings(), story, connections=2)


def _show_live(name: str, live: GenerationState, as_json: bool) -> None:
    from embedmill.cli.generation_table import generation_record
    from embedmill.cli.running import print_json

    if as_json:
        print_json(generation_record(live))
    else:
        print(
            f"pipeline {name}: generation {live.number} ({live.spec.model}) is live, {live.coverage:.1%} embedded"
        )


def _show_dropped(dropped: list[GenerationState], as_json: bool) -> None:
    from embedmill.cli.generation_table import generation_record
    from embedmill.cli.running import print_json

    if as_json:
        print_json([generation_record(each) for each in dropped])
        return
    for each in dropped:
        print(f"dropped generation {each.number} ({each.spec.model}, {each.embedded:,} vectors)")
    if not dropped:
        print("nothing to drop: there is only the live generation")
