"""`embedmill search`: the passages that answer a query."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.search.searcher import Hit


def search(
    query: Annotated[str, typer.Argument(help="What you are looking for, in plain words.")],
    pipeline: Annotated[str, typer.Option("--pipeline", "-p", help="Which pipeline to search.")] = "default",
    mode: Annotated[str, typer.Option(help="hybrid, vector or text.")] = "hybrid",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many passages.")] = 5,
    document: Annotated[int | None, typer.Option(help="Only this document (its id).")] = None,
    source: Annotated[str | None, typer.Option(help="Only sources like this: '*/contracts/*.pdf'.")] = None,
    metadata: Annotated[str | None, typer.Option(help="Only documents whose metadata holds this JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Search what was ingested; each passage with its document, place and score."""
    from embedmill.cli.running import print_json, run_with_app
    from embedmill.search.searcher import Filter, Mode

    if mode not in set(Mode):
        raise typer.BadParameter("--mode is hybrid, vector or text")
    where = Filter(document_id=document, source=source, metadata=_read_metadata(metadata))

    async def story(app: App) -> list[Hit]:
        chosen = await app.pipeline(pipeline)
        provider = None if mode == Mode.TEXT else app.provider(chosen.generation.spec)
        try:
            searcher = app.searcher(chosen, provider)
            return await searcher.search(query, mode=Mode(mode), limit=limit, where=where)
        finally:
            if provider is not None:
                await provider.aclose()

    hits = run_with_app(story)
    if as_json:
        print_json(hits)
    else:
        show_hits(hits)


def show_hits(hits: list[Hit]) -> None:
    """For people: score, source, place, headings, passage."""
    if not hits:
        print("Nothing found. `embedmill status` shows what has been ingested.")
    for number, hit in enumerate(hits, start=1):
        where = " · ".join(
            part for part in (hit.name, hit.place, " > ".join(hit.heading_path)) if part
        )
        print(f"{number}. {where}  (score {hit.score:.3f})")
        print(f"   {_shorten(hit.text)}\n")


def _shorten(text: str, characters: int = 320) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else line[:characters].rsplit(" ", 1)[0] + " …"


def _read_metadata(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--metadata is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter('--metadata is a JSON object, such as {"lang": "en"}')
    return value
