"""Options of a pipeline's model, said when it is made and when it is migrated. Owns their names and words."""

from __future__ import annotations

from collections.abc import Callable

import click

from embedmill.cli.options import JsonObject

POSITIVE = click.IntRange(min=1)
# Fields of ports.ProviderSpec that are None, and so the model's own, unless they are given.
_SPEC_OPTIONS = (
    ("--base-url", str, "The server, up to and with /v1. Default: OpenAI."),
    ("--api-key-env", str, "The environment variable that holds the key, such as VOYAGE_API_KEY."),
    ("--tokenizer", str, "An encoding (cl100k_base), a tokenizer.json or a model folder."),
    ("--query-prefix", str, "Put before each query."),
    ("--document-prefix", str, "Put before each chunk."),
    ("--params", JsonObject(), "JSON merged into every request."),
    ("--query-params", JsonObject(), "JSON merged into requests for queries."),
    ("--document-params", JsonObject(), "JSON merged into requests for chunks."),
    ("--max-inputs-per-call", POSITIVE, "Texts in one call."),
    ("--max-tokens-per-call", POSITIVE, "Tokens in one call."),
    ("--max-tokens-per-input", POSITIVE, "Tokens in one text."),
)


def spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds them to a command."""
    for name, kind, words in reversed(_SPEC_OPTIONS):
        command = click.option(name, type=kind, help=words)(command)
    return command
