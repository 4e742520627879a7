"""`embedmill pipeline`: make and list pipelines."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from embedmill.app import App
    from embedmill.database.pipelines import Pipeline

app = typer.Typer(help="Pipelines: named recipes from content to vectors.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Small letters, digits, - and _.")],
    model: Annotated[str, typer.Option(help="The model's name; for local also a folder or a hub id.")],
    provider: Annotated[str, typer.Option(help="local or openai (any OpenAI-compatible server).")] = "openai",
    base_url: Annotated[str | None, typer.Option(help="The server, up to and with /v1. Default: OpenAI.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Default: the model's own.")] = None,
    chunk_tokens: Annotated[int, typer.Option(help="The longest chunk, in tokens of the model.")] = 256,
    chunk_overlap: Annotated[int, typer.Option(help="Tokens a chunk repeats of the one before.")] = 32,
    storage: Annotated[str, typer.Option(help="vector (4 bytes a number) or halfvec (2).")] = "vector",
    price_per_million_tokens: Annotated[
        str | None, typer.Option(help="US dollars. Default: the published price, where it is known.")
    ] = None,
    calls_per_minute: Annotated[int | None, typer.Option(min=1, help="For the whole fleet.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="For the whole fleet.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="The environment variable that holds the key, such as VOYAGE_API_KEY.")
    ] = None,
    language: Annotated[str, typer.Option(help="PostgreSQL text search configuration.")] = "english",
    tokenizer: Annotated[
        str | None, typer.Option(help="An encoding (cl100k_base), a tokenizer.json or a model folder.")
    ] = None,
    query_prefix: Annotated[str | None, typer.Option(help="Put before each query.")] = None,
    document_prefix: Annotated[str | None, typer.Option(help="Put before each chunk.")] = None,
    params: Annotated[str | None, typer.Option(help="JSON merged into every request.")] = None,
    query_params: Annotated[str | None, typer.Option(help="JSON merged into requests for queries.")] = None,
    document_params: Annotated[str | None, typer.Option(help="JSON merged into requests for chunks.")] = None,
    max_inputs_per_call: Annotated[int | None, typer.Option(min=1)] = None,
    max_tokens_per_call: Annotated[int | None, typer.Option(min=1)] = None,
    max_tokens_per_input: Annotated[int | None, typer.Option(min=1)] = None,
    timeout_seconds: Annotated[float, typer.Option(min=0.1, help="For a whole call.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Make a pipeline with its table of vectors, its quota and its view."""
    from embedmill.cli.running import run_with_app
    from embedmill.core.documents import ChunkPlan
    from embedmill.ports import ProviderSpec

    given: dict[str, Any] = {
        "params": _read_object("--params", params),
        "query_params": _read_object("--query-params", query_params),
        "document_params": _read_object("--document-params", document_params),
        "query_prefix": query_prefix,
        "document_prefix": document_prefix,
        "tokenizer": tokenizer,
        "max_inputs_per_call": max_inputs_per_call,
        "max_tokens_per_call": max_tokens_per_call,
        "max_tokens_per_input": max_tokens_per_input,
        "api_key_env": api_key_env,
        "base_url": base_url,
    }
    explicit = {key: value for key, value in given.items() if value is not None}
    spec = ProviderSpec(
        provider=provider, model=model, dimensions=dimensions or 0, timeout_seconds=timeout_seconds, **explicit
    )

    async def story(app: App) -> Pipeline:
        return await app.create_pipeline(
            name,
            spec,
            explicit=frozenset(explicit),
            storage=storage,
            chunk_plan=ChunkPlan(chunk_tokens, chunk_overlap),
            text_search_config=language,
            price_per_million_tokens=_read_price(price_per_million_tokens),
            calls_per_minute=calls_per_minute,
            tokens_per_minute=tokens_per_minute,
        )

    _show_one(run_with_app(story), as_json)


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the pipelines."""
    from embedmill.cli.running import print_json, run_with_app
    from embedmill.database.pipelines import list_pipelines

    async def story(app: App) -> list[Pipeline]:
        return await list_pipelines(app.database, await app.tenant_id())

    pipelines = run_with_app(story)
    if as_json:
        print_json([_record(pipeline) for pipeline in pipelines])
        return
    for pipeline in pipelines:
        spec = pipeline.generation.spec
        print(
            f"{pipeline.name:<20} {spec.provider:<8} {spec.model}  "
            f"{pipeline.generation.dimensions} dimensions ({pipeline.generation.storage})"
        )


@app.command()
def show(name: str, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show all of one pipeline."""
    from embedmill.cli.running import run_with_app

    async def story(app: App) -> Pipeline:
        return await app.pipeline(name)

    _show_one(run_with_app(story), as_json)


def _show_one(pipeline: Pipeline, as_json: bool) -> None:
    from embedmill.cli.running import print_json

    record = _record(pipeline)
    if as_json:
        print_json(record)
        return
    for key, value in record.items():
        if value not in (None, {}, ""):
            print(f"{key:<26} {value}")
    if record["price_per_million_tokens"] is None:
        print(f"{'price_per_million_tokens':<26} unknown: costs will read 'unknown', not 0")


def _record(pipeline: Pipeline) -> dict[str, Any]:
    import msgspec

    spec = msgspec.structs.asdict(pipeline.generation.spec)
    price = pipeline.price_per_million_tokens
    return {
        "name": pipeline.name,
        **spec,
        "storage": pipeline.generation.storage,
        "chunk_tokens": pipeline.chunk_plan.max_tokens,
        "chunk_overlap": pipeline.chunk_plan.overlap_tokens,
        "language": pipeline.text_search_config,
        "price_per_million_tokens": None if price is None else float(price),
        "calls_per_minute": pipeline.calls_per_minute,
        "tokens_per_minute": pipeline.tokens_per_minute,
        "view": f"embedmill.{pipeline.view_name}",
        "vectors": f"embedmill.vectors_{pipeline.generation.id}",
    }


def _read_object(option: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option} is a JSON object")
    return value


def _read_price(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        price = Decimal(text)
    except InvalidOperation as error:
        raise typer.BadParameter("--price-per-million-tokens is a number of US dollars") from error
    if not price.is_finite() or price < 0:
        raise typer.BadParameter("--price-per-million-tokens is 0 or more")
    return price
