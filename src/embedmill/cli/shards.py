"""`embedmill shards`: feeds that other systems push content to. Owns how they are shown and asked for; reading a stream
is shards_import.py's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from embedmill.cli.options import Text, as_json
from embedmill.cli.shards_import import import_

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.sources.shard_feeds import RemovedFeed, ShardFeed

_PRIORITIES = click.Choice(("high", "medium", "low"))
shard_type = click.argument("shard_type", metavar="TYPE", type=Text())
pipeline_of_feed = click.option(
    "--pipeline", "-p", type=Text(), help="Which pipeline, where several have a feed of this type."
)


@click.group()
def shards() -> None:
    """Shards: texts that other systems push (PUT /api/v1/shards/TYPE/ID, or `embedmill shards import`)."""


shards.add_command(import_)


@shards.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the shard feeds of the tenant, and how far they are embedded."""
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.cli.tables import print_table
    from embedmill.sources.shard_feeds import list_feeds

    async def story(app: App) -> list[ShardFeed]:
        return await list_feeds(app.database, await app.tenant_id())

    feeds = run_with_app(read_settings(), story)
    if as_json:
        print_json(feeds)
    elif not feeds:
        print("no shard feeds: the first PUT of a shard makes one, or `embedmill shards create TYPE`")
    else:
        print_table(
            ("TYPE", "PIPELINE", "STATE", "SHARDS", "READ", "CHUNKS", "EMBEDDED"),
            [
                (
                    feed.shard_type_id,
                    feed.pipeline,
                    _state(feed),
                    f"{feed.shards:,}",
                    f"{feed.documents:,}",
                    f"{feed.chunks:,}",
                    _coverage(feed),
                )
                for feed in feeds
            ],
            right="SHARDS READ CHUNKS",
        )


@shards.command()
@shard_type
@pipeline_of_feed
@as_json
def show(shard_type: str, pipeline: str | None, as_json: bool) -> None:
    """Show one feed."""
    from embedmill.cli.running import read_settings, run_with_app

    async def story(app: App) -> ShardFeed:
        return await _find(app, shard_type, pipeline)

    _tell(run_with_app(read_settings(), story), as_json=as_json)


@shards.command()
@shard_type
@click.option("--pipeline", "-p", type=Text(), help="Into which pipeline.  [default: default]")
@click.option(
    "--template", type=Text(), help="What is made of a shard's fields, such as '$title\\n\\n$body'."
)
@click.option("--priority", type=_PRIORITIES, default="medium", show_default=True, help="Of changes.")
@as_json
def create(shard_type: str, pipeline: str | None, template: str | None, priority: str, as_json: bool) -> None:
    """Make a feed. The first PUT of a shard would make it too, in the pipeline `default` and without a template."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import read_settings, run_with_app
    from embedmill.errors import ConflictError
    from embedmill.sources.shard_feeds import DEFAULT_PIPELINE, list_feeds, put_feed

    async def story(app: App) -> ShardFeed:
        tenant, where = await app.tenant_id(), pipeline or DEFAULT_PIPELINE
        if await list_feeds(app.database, tenant, name=shard_type, pipeline=where):
            raise ConflictError(
                f"there is a feed {shard_type} in the pipeline {where} already: `embedmill shards alter` changes it"
            )
        return await put_feed(
            app.database,
            tenant,
            shard_type,
            pipeline=where,
            template=_unescaped(template),
            priority=priority,
            actor=local_actor(),
        )

    _tell(run_with_app(read_settings(), story), as_json=as_json)


@shards.command()
@shard_type
@pipeline_of_feed
@click.option("--template", type=Text(), help="What is made of a shard's fields from now on; '' for none.")
@click.option("--priority", type=_PRIORITIES, help="Of changes.")
@as_json
def alter(
    shard_type: str, pipeline: str | None, template: str | None, priority: str | None, as_json: bool
) -> None:
    """Change a feed. With another template its shards are read anew; what comes out the same costs nothing."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import read_settings, run_with_app
    from embedmill.sources.shard_feeds import put_feed

    if template is None and priority is None:
        raise click.UsageError("say what to change: --template, --priority, or both.")

    async def story(app: App) -> ShardFeed:
        feed = await _find(app, shard_type, pipeline)
        return await put_feed(
            app.database,
            feed.tenant_id,
            shard_type,
            pipeline=feed.pipeline,
            template=feed.template if template is None else _unescaped(template) or None,
            priority=priority or feed.priority,
            actor=local_actor(),
        )

    _tell(run_with_app(read_settings(), story), as_json=as_json)


@shards.command()
@shard_type
@pipeline_of_feed
def pause(shard_type: str, pipeline: str | None) -> None:
    """Take shards, but do not read them until `resume`."""
    _switch(shard_type, pipeline, is_paused=True)


@shards.command()
@shard_type
@pipeline_of_feed
def resume(shard_type: str, pipeline: str | None) -> None:
    """Read on."""
    _switch(shard_type, pipeline, is_paused=False)


@shards.command()
@shard_type
@pipeline_of_feed
@click.option("--with-vectors", is_flag=True, help="Delete its documents and their vectors too.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@as_json
def remove(shard_type: str, pipeline: str | None, with_vectors: bool, yes: bool, as_json: bool) -> None:
    """Forget a feed and its shards. Its documents stay searchable unless told otherwise."""
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import print_json, read_settings, run_with_app
    from embedmill.sources.shard_feeds import remove_feed

    async def story(app: App) -> RemovedFeed:
        feed = await _find(app, shard_type, pipeline)
        if not yes:
            vectors = " with all of their vectors" if with_vectors else ""
            click.confirm(f"Forget {feed.shards:,} shards of {shard_type}{vectors}?", abort=True, err=True)
        return await remove_feed(app.database, feed, with_vectors=with_vectors, actor=local_actor())

    removed = run_with_app(read_settings(), story)
    if as_json:
        print_json(removed)
    elif with_vectors:
        print(
            f"{shard_type} is removed, {removed.documents_deleted:,} documents with their vectors went with it"
        )
    else:
        print(f"{shard_type} is removed, {removed.documents_kept:,} documents stay searchable")


def _switch(shard_type: str, pipeline: str | None, *, is_paused: bool) -> None:
    from embedmill.cli.actor import local_actor
    from embedmill.cli.running import read_settings, run_with_app
    from embedmill.sources.shard_feeds import pause_feed

    async def story(app: App) -> None:
        feed = await _find(app, shard_type, pipeline)
        await pause_feed(app.database, feed, is_paused=is_paused, actor=local_actor())

    run_with_app(read_settings(), story)
    print(f"{shard_type} is {'paused' if is_paused else 'read again'}")


async def _find(app: App, shard_type: str, pipeline: str | None) -> ShardFeed:
    from embedmill.sources.shard_feeds import find_feed

    return await find_feed(app.database, await app.tenant_id(), shard_type, pipeline=pipeline)


def _tell(feed: ShardFeed, *, as_json: bool) -> None:
    from embedmill.cli.running import print_json
    from embedmill.cli.tables import print_below

    if as_json:
        print_json(feed)
        return
    print(f"{feed.shard_type_id}  in the pipeline {feed.pipeline}, {_state(feed)}, priority {feed.priority}")
    template = "none: content as it is" if feed.template is None else repr(feed.template)
    print_below(f"template  {template}", indent=4, wrap=True)
    waiting = f"; {feed.changes:,} changes wait to be read" if feed.changes else ""
    print(f"    shards    {feed.shards:,}, of these {feed.documents:,} read{waiting}")
    print(f"    chunks    {feed.chunks:,}, {_coverage(feed)} embedded, {feed.unembeddable:,} cannot be")
    if feed.trouble:
        print_below(f"trouble   {feed.trouble}", indent=4, wrap=True)


def _state(feed: ShardFeed) -> str:
    return "paused" if feed.paused_at else "in trouble" if feed.trouble else "active"


def _coverage(feed: ShardFeed) -> str:
    """Embedded over embeddable; rounded down, so that 100% means all."""
    embeddable = feed.chunks - feed.unembeddable
    return "-" if embeddable <= 0 else f"{1000 * feed.embedded // embeddable / 10:.1f}%"


def _unescaped(template: str | None) -> str | None:
    """A line break may be written as \\n, as shells leave it."""
    return None if template is None else template.replace("\\n", "\n").replace("\\t", "\t")
