"""What is known about embedding models: sizes, limits, and how each wants to be asked. Owns facts and the
defaults drawn from them; prices live elsewhere, and nothing here makes a call.

A name is looked up without regard to case, a router's or publisher's prefix ("azure/", "BAAI/",
"models/") or an Ollama tag (":latest"). A model that is not known gets UNKNOWN's careful limits; a spec's
own limits always win.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from embedmill.errors import ConfigurationError
from embedmill.ports import ProviderLimits, ProviderSpec

ROUTERS = frozenset(
    {"openai", "azure", "azure_ai", "models", "voyage", "jina_ai", "cohere", "mistral", "gemini", "google",
     "vertex_ai", "huggingface", "ollama", "hosted_vllm", "openrouter", "together_ai", "deepinfra"}
)  # fmt: skip


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """`dimensions_parameter` names the request field that shortens the vectors, None where there is none.
    `publishers` are the prefixes under which the name still means this model."""

    dimensions: int
    largest_dimensions: int | None = None
    dimensions_parameter: str | None = None
    max_tokens_per_input: int
    max_inputs_per_call: int
    max_tokens_per_call: int
    tokenizer: str | None = None
    params: dict[str, object] = {}
    query_params: dict[str, object] = {}
    document_params: dict[str, object] = {}
    query_prefix: str = ""
    document_prefix: str = ""
    publishers: frozenset[str] = frozenset()


UNKNOWN = ProviderLimits(max_inputs_per_call=256, max_tokens_per_call=100_000, max_tokens_per_input=512)
"""For a model nobody told us about. 512 tokens an input, because many models served at home end there and
some servers cut the rest off without a word; who knows better sets `max_tokens_per_input`."""


def _openai(dimensions: int, parameter: str | None = "dimensions") -> ModelFacts:
    return ModelFacts(
        dimensions=dimensions,
        dimensions_parameter=parameter,
        max_tokens_per_input=8192,
        max_inputs_per_call=2048,
        max_tokens_per_call=300_000,
        tokenizer="cl100k_base",
    )


def _voyage(
    max_tokens_per_call: int,
    dimensions: int = 1024,
    *,
    resizable: bool = True,
    tokenizer: str | None = None,
) -> ModelFacts:
    return ModelFacts(
        dimensions=dimensions,
        largest_dimensions=2048 if resizable else None,
        dimensions_parameter="output_dimension" if resizable else None,
        max_tokens_per_input=32_000 if resizable else 16_000,
        max_inputs_per_call=1000,
        max_tokens_per_call=max_tokens_per_call,
        tokenizer=tokenizer,
        # Without this Voyage cuts long inputs off and says nothing.
        params={"truncation": False},
        query_params={"input_type": "query"},
        document_params={"input_type": "document"},
    )


def _jina(dimensions: int, max_tokens_per_input: int) -> ModelFacts:
    return ModelFacts(
        dimensions=dimensions,
        dimensions_parameter="dimensions",
        max_tokens_per_input=max_tokens_per_input,
        max_inputs_per_call=128,
        max_tokens_per_call=100_000,
        query_params={"task": "retrieval.query"},
        document_params={"task": "retrieval.passage"},
        publishers=frozenset({"jinaai"}),
    )


def _cohere(dimensions: int, max_tokens_per_input: int, parameter: str | None = None) -> ModelFacts:
    return ModelFacts(
        dimensions=dimensions,
        dimensions_parameter=parameter,
        max_tokens_per_input=max_tokens_per_input,
        max_inputs_per_call=96,
        max_tokens_per_call=100_000,
        query_params={"input_type": "search_query"},
        document_params={"input_type": "search_document"},
    )


def _mistral(dimensions: int) -> ModelFacts:
    return ModelFacts(
        dimensions=dimensions,
        largest_dimensions=3072 if dimensions == 1536 else None,
        dimensions_parameter="output_dimension" if dimensions == 1536 else None,
        max_tokens_per_input=8192,
        max_inputs_per_call=512,
        max_tokens_per_call=16_384,
        publishers=frozenset({"mistralai"}),
    )


def _gemini(dimensions: int, max_tokens_per_input: int, parameter: str | None) -> ModelFacts:
    return ModelFacts(
        dimensions=dimensions,
        dimensions_parameter=parameter,
        max_tokens_per_input=max_tokens_per_input,
        max_inputs_per_call=100,
        max_tokens_per_call=20_000,
    )


def _open(
    publisher: str,
    dimensions: int,
    max_tokens_per_input: int,
    *,
    query: str = "",
    document: str = "",
    parameter: str | None = None,
) -> ModelFacts:
    """Open weights on one's own server: 32 inputs a call is what Text Embeddings Inference takes unasked."""
    return ModelFacts(
        dimensions=dimensions,
        dimensions_parameter=parameter,
        max_tokens_per_input=max_tokens_per_input,
        max_inputs_per_call=32,
        max_tokens_per_call=max(16_384, max_tokens_per_input),
        query_prefix=query,
        document_prefix=document,
        publishers=frozenset({publisher}),
    )


BGE_QUERY = "Represent this sentence for searching relevant passages: "
QWEN_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
NOMIC = {"query": "search_query: ", "document": "search_document: "}
E5 = {"query": "query: ", "document": "passage: "}
GEMMA = {"query": "task: search result | query: ", "document": "title: none | text: "}

MODELS: dict[str, ModelFacts] = {
    "text-embedding-3-small": _openai(1536),
    "text-embedding-3-large": _openai(3072),
    "text-embedding-ada-002": _openai(1536, None),
    "voyage-4-large": _voyage(120_000),
    "voyage-4": _voyage(320_000),
    "voyage-4-lite": _voyage(1_000_000),
    "voyage-3-large": _voyage(120_000, tokenizer="voyage3_base"),
    "voyage-3.5": _voyage(320_000, tokenizer="voyage3_base"),
    "voyage-3.5-lite": _voyage(1_000_000, tokenizer="voyage3_base"),
    "voyage-code-3": _voyage(120_000, tokenizer="voyage3_base"),
    "voyage-finance-2": _voyage(120_000, resizable=False),
    "voyage-law-2": _voyage(120_000, resizable=False),
    "voyage-code-2": _voyage(120_000, 1536, resizable=False),
    "jina-embeddings-v3": _jina(1024, 8192),
    "jina-embeddings-v4": _jina(2048, 32_768),
    "embed-v4.0": _cohere(1536, 128_000, "dimensions"),
    "embed-english-v3.0": _cohere(1024, 512),
    "embed-multilingual-v3.0": _cohere(1024, 512),
    "embed-english-light-v3.0": _cohere(384, 512),
    "embed-multilingual-light-v3.0": _cohere(384, 512),
    "mistral-embed": _mistral(1024),
    "codestral-embed": _mistral(1536),
    "gemini-embedding-001": _gemini(3072, 2048, "dimensions"),
    "text-embedding-004": _gemini(768, 2048, None),
    "all-minilm-l6-v2": _open("sentence-transformers", 384, 256),
    "all-minilm-l12-v2": _open("sentence-transformers", 384, 128),
    "all-mpnet-base-v2": _open("sentence-transformers", 768, 384),
    "all-minilm": _open("library", 384, 256),
    "bge-small-en-v1.5": _open("baai", 384, 512, query=BGE_QUERY),
    "bge-base-en-v1.5": _open("baai", 768, 512, query=BGE_QUERY),
    "bge-large-en-v1.5": _open("baai", 1024, 512, query=BGE_QUERY),
    "bge-m3": _open("baai", 1024, 8192),
    "e5-small-v2": _open("intfloat", 384, 512, **E5),
    "e5-base-v2": _open("intfloat", 768, 512, **E5),
    "e5-large-v2": _open("intfloat", 1024, 512, **E5),
    "multilingual-e5-small": _open("intfloat", 384, 512, **E5),
    "multilingual-e5-base": _open("intfloat", 768, 512, **E5),
    "multilingual-e5-large": _open("intfloat", 1024, 512, **E5),
    # 2048, not 8192: what Ollama gives it without being asked for more.
    "nomic-embed-text": _open("nomic-ai", 768, 2048, parameter="dimensions", **NOMIC),
    "nomic-embed-text-v1.5": _open("nomic-ai", 768, 8192, parameter="dimensions", **NOMIC),
    "mxbai-embed-large": _open("mixedbread-ai", 1024, 512, query=BGE_QUERY),
    "mxbai-embed-large-v1": _open("mixedbread-ai", 1024, 512, query=BGE_QUERY, parameter="dimensions"),
    "embeddinggemma": _open("google", 768, 2048, parameter="dimensions", **GEMMA),
    "embeddinggemma-300m": _open("google", 768, 2048, parameter="dimensions", **GEMMA),
    "qwen3-embedding-0.6b": _open("qwen", 1024, 32_768, query=QWEN_QUERY, parameter="dimensions"),
    "qwen3-embedding-4b": _open("qwen", 2560, 32_768, query=QWEN_QUERY, parameter="dimensions"),
    "qwen3-embedding-8b": _open("qwen", 4096, 32_768, query=QWEN_QUERY, parameter="dimensions"),
}


def facts_about(model: str) -> ModelFacts | None:
    """The facts of a model by any of its usual names; None when it is not known."""
    *prefixes, name = model.strip().lower().split("/")
    bare, colon, tag = name.partition(":")
    facts = (MODELS.get(f"{bare}-{tag}") if colon else None) or MODELS.get(bare)
    if facts is None or any(prefix not in ROUTERS | facts.publishers for prefix in prefixes):
        return None
    return facts


def limits_for(spec: ProviderSpec) -> ProviderLimits:
    """What one call and one input may hold: the spec's own numbers, else the model's, else UNKNOWN's.

    Raises ConfigurationError for a number below 1."""
    known: ModelFacts | ProviderLimits = facts_about(spec.model) or UNKNOWN

    def chosen(name: str) -> int:
        own: int | None = getattr(spec, name)
        if own is not None and own < 1:
            raise ConfigurationError(f"{name} is {own}; it must be 1 or more")
        return own if own is not None else int(getattr(known, name))

    per_call = chosen("max_tokens_per_call")
    return ProviderLimits(
        max_inputs_per_call=chosen("max_inputs_per_call"),
        max_tokens_per_call=per_call,
        max_tokens_per_input=min(chosen("max_tokens_per_input"), per_call),
    )


def tokenizer_for(spec: ProviderSpec) -> str | None:
    """The name of the tokenizer that counts as this model does; None where it is not known by name."""
    facts = facts_about(spec.model)
    return spec.tokenizer or (facts.tokenizer if facts else None)


def with_model_defaults(spec: ProviderSpec, explicit: Collection[str] = ()) -> ProviderSpec:
    """The spec with the parameters and prefixes that its model wants, for the moment a pipeline is made.

    An adapter uses a spec as it stands and adds nothing, so that a later embedmill, which may know more,
    makes the same vectors from the same pipeline. Fields named in `explicit` were given by the user and
    stay, empty or not; in the params a key of the spec wins, and a value of None keeps the key from being
    sent.
    """
    facts = facts_about(spec.model)
    if facts is None:
        return spec
    changes: dict[str, object] = {}
    for name in ("params", "query_params", "document_params"):
        if name not in explicit:
            changes[name] = {**getattr(facts, name), **getattr(spec, name)}
    for name in ("query_prefix", "document_prefix"):
        if name not in explicit and not getattr(spec, name):
            changes[name] = getattr(facts, name)
    return msgspec.structs.replace(spec, **changes)


def dimensions_parameter_for(spec: ProviderSpec) -> str | None:
    """The request field that must carry the dimensions, or None where none is to be sent.

    The rule: it is sent only where the catalog knows the model, knows that it can shorten, and the spec
    asks for another size than the native one. Who needs it sent otherwise writes it into `params`. Raises
    ConfigurationError where a known model can never answer with the spec's dimensions.
    """
    facts = facts_about(spec.model)
    every_params = (spec.params, spec.query_params, spec.document_params)
    if any(name in params for params in every_params for name in ("dimensions", "output_dimension")):
        return None
    if facts is None or facts.dimensions == spec.dimensions:
        return None
    largest = facts.largest_dimensions or facts.dimensions
    if facts.dimensions_parameter is None:
        raise ConfigurationError(
            f"{spec.model} gives {facts.dimensions} dimensions and cannot be shortened: set dimensions"
            f" to {facts.dimensions}, not {spec.dimensions}"
        )
    if spec.dimensions > largest:
        raise ConfigurationError(
            f"{spec.model} gives at most {largest} dimensions; {spec.dimensions} are set"
        )
    return facts.dimensions_parameter
