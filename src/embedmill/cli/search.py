"""`embedmill search`: the passages that answer a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import JsonObject, as_json, pipeline_name

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.search.searcher import Hit


@click.command()
@click.argument("query")
@pipeline_name
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "vector", "text"]),
    default="hybrid",
    show_default=True,
    help="By meaning (vector), by words (text), or both fused.",
)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many passages."
)
@click.option("--document", type=click.IntRange(1, 2**63 - 1), help="Only this document (its id).")
@click.option("--source", help="Only sources like this: '*/contracts/*.pdf'.")
@click.option("--metadata", type=JsonObject(), help="Only documents whose metadata holds this JSON object.")
@as_json
def search(
    query: str,
    pipeline: str,
    mode: str,
    limit: int,
    document: int | None,
    source: str | None,
    metadata: dict[str, Any] | None,
    as_json: bool,
) -> None:
    """Search what was ingested; each passage with its document, place and score."""
    from embedmill.cli.running import print_json, read_settings, run_with_app

    async def story(app: App) -> list[Hit]:
        from embedmill.errors import EmbedmillError, ProviderError
        from embedmill.search.searcher import Filter, Mode

        where = Filter(document_id=document, source=source, metadata=metadata)
        chosen = await app.pipeline(pipeline)
        provider = None if mode == Mode.TEXT else app.provider(chosen.generation.spec)
        try:
            searcher = app.searcher(chosen, provider)
            return await searcher.search(query, mode=Mode(mode), limit=limit, where=where)
        except ProviderError as error:
            told = str(error).rstrip(".")
            raise EmbedmillError(f"{told}. By words it works without the provider: --mode text") from error
        finally:
            if provider is not None:
                await provider.aclose()

    hits = run_with_app(read_settings(), story, connections=1, meanwhile=_import_search)
    if as_json:
        print_json(hits)
    else:
        show_hits(hits)
        if not hits and source is not None and not set(source) & set("*?"):
            print(f"--source is held against a whole path or id; '*{source}*' takes parts of it as well.")


def _import_search() -> None:
    """What takes long to import and needs no database."""
    import embedmill.search.searcher  # noqa: F401


def show_hits(hits: list[Hit]) -> None:
    """For people: score, source, place, headings, passage."""
    if not hits:
        print("Nothing found. `embedmill status` shows what has been ingested.")
    for number, hit in enumerate(hits, start=1):
        where = " · ".join(part for part in (hit.name, hit.place, " > ".join(hit.heading_path)) if part)
        print(f"{number}. {where}  (score {hit.score:.3f})")
        print(f"   {_shorten(hit.text)}\n")


def _shorten(text: str, characters: int = 320) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[:characters].rsplit(" ", 1)[0] + " …"
