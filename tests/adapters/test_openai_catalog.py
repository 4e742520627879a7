"""What the catalog knows, and what it makes of a spec."""

from __future__ import annotations

import pytest

from embedmill.adapters.providers.catalog import (
    MODELS,
    UNKNOWN,
    dimensions_parameter_for,
    facts_about,
    limits_for,
    tokenizer_for,
    with_model_defaults,
)
from embedmill.errors import ConfigurationError
from embedmill.ports import ProviderLimits, ProviderSpec


def spec_for(model: str, **fields: object) -> ProviderSpec:
    return ProviderSpec(**{"provider": "openai", "model": model, "dimensions": 8, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_entry_is_consistent(name: str) -> None:
    facts = MODELS[name]
    assert name == name.lower()
    assert facts.dimensions >= 1
    assert (facts.largest_dimensions or facts.dimensions) >= facts.dimensions
    assert facts.largest_dimensions is None or facts.dimensions_parameter is not None
    assert 1 <= facts.max_tokens_per_input <= max(facts.max_tokens_per_call, 128_000)
    assert facts.max_inputs_per_call >= 1
    assert facts_about(name) is facts


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("text-embedding-3-small", "text-embedding-3-small"),
        ("openai/text-embedding-3-small", "text-embedding-3-small"),
        ("openrouter/openai/Text-Embedding-3-Small", "text-embedding-3-small"),
        ("models/gemini-embedding-001", "gemini-embedding-001"),
        ("BAAI/bge-small-en-v1.5", "bge-small-en-v1.5"),
        ("nomic-embed-text:latest", "nomic-embed-text"),
        ("nomic-embed-text:v1.5", "nomic-embed-text-v1.5"),
        ("qwen3-embedding:4b", "qwen3-embedding-4b"),
        ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
    ],
)
def test_a_model_is_found_by_its_usual_names(name: str, key: str) -> None:
    assert facts_about(name) is MODELS[key]


@pytest.mark.parametrize("name", ["", "/", ":", "gpt-4", "somebody/bge-small-en-v1.5", "qwen3-embedding:1b"])
def test_another_model_is_not_taken_for_a_known_one(name: str) -> None:
    assert facts_about(name) is None


def test_limits_are_the_models_own_and_the_specs_win() -> None:
    assert limits_for(spec_for("text-embedding-3-small")) == ProviderLimits(2048, 300_000, 8192)
    assert limits_for(spec_for("unheard-of")) == UNKNOWN
    own = spec_for("text-embedding-3-small", max_inputs_per_call=5, max_tokens_per_call=100)
    assert limits_for(own) == ProviderLimits(5, 100, 100)


@pytest.mark.parametrize("field", ["max_inputs_per_call", "max_tokens_per_call", "max_tokens_per_input"])
def test_a_limit_below_one_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        limits_for(spec_for("m", **{field: 0}))


def test_the_tokenizer_is_the_specs_or_the_models() -> None:
    assert tokenizer_for(spec_for("text-embedding-3-large")) == "cl100k_base"
    assert tokenizer_for(spec_for("text-embedding-3-large", tokenizer="mine.json")) == "mine.json"
    assert tokenizer_for(spec_for("unheard-of")) is None


def test_model_defaults_are_filled_in_and_the_users_own_words_stay() -> None:
    voyage = with_model_defaults(spec_for("voyage-3.5", params={"truncation": True, "user": "u"}))
    assert voyage.params == {"truncation": True, "user": "u"}
    assert (voyage.query_params, voyage.document_params) == (
        {"input_type": "query"},
        {"input_type": "document"},
    )
    assert with_model_defaults(voyage) == voyage
    e5 = with_model_defaults(spec_for("intfloat/e5-base-v2", query_prefix="q: "))
    assert (e5.query_prefix, e5.document_prefix) == ("q: ", "passage: ")
    bare = with_model_defaults(spec_for("intfloat/e5-base-v2"), explicit={"query_prefix", "document_prefix"})
    assert (bare.query_prefix, bare.document_prefix) == ("", "")
    assert with_model_defaults(spec_for("unheard-of")) == spec_for("unheard-of")


def test_dimensions_no_model_can_give_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="set dimensions to 1536"):
        dimensions_parameter_for(spec_for("text-embedding-ada-002"))
    with pytest.raises(ConfigurationError, match="at most 2048"):
        dimensions_parameter_for(spec_for("voyage-4", dimensions=4096))
