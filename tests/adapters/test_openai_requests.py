"""What goes over the wire: addresses, keys, parameters, prefixes, and what is learnt about a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from httpcore2._backends.anyio import AnyIOStream

from embedmill.adapters.providers import build_provider
from embedmill.adapters.providers.addresses import address_for, headers_for
from embedmill.adapters.providers.openai import OpenAIProvider
from embedmill.errors import (
    BadResponseError,
    ConfigurationError,
    InputRejectedError,
    ProviderRefusedError,
)
from embedmill.ports import EmbeddingResponse, ProviderSpec, Purpose
from tests.support.provider import RunningProvider, start_provider, vectors_for


@pytest.fixture(scope="module")
def stand_in() -> Iterator[RunningProvider]:
    with start_provider() as running:
        yield running


def spec_for(base_url: str | None, **fields: object) -> ProviderSpec:
    values = {"provider": "openai", "model": "m", "dimensions": 64, "base_url": base_url, **fields}
    return ProviderSpec(**values)  # type: ignore[arg-type]


async def ask(
    stand_in: RunningProvider,
    texts: list[str],
    purpose: Purpose = Purpose.DOCUMENT,
    api_key: str | None = "k",
    **fields: object,
) -> EmbeddingResponse:
    provider = OpenAIProvider(spec_for(stand_in.base_url, **fields), api_key=api_key)
    try:
        return await provider.embed(texts, purpose)
    finally:
        await provider.aclose()


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (None, "https://api.openai.com/v1/embeddings"),
        ("http://localhost:11434", "http://localhost:11434/v1/embeddings"),
        ("http://localhost:11434/", "http://localhost:11434/v1/embeddings"),
        ("http://h/v1/", "http://h/v1/embeddings"),
        ("http://h/v1/embeddings", "http://h/v1/embeddings"),
        ("https://h/compat/v1?x=1#part", "https://h/compat/v1/embeddings?x=1"),
        ("https://a.openai.azure.com", "https://a.openai.azure.com/openai/v1/embeddings"),
        (
            "https://a.openai.azure.com?api-version=2024-10-21",
            "https://a.openai.azure.com/openai/deployments/my%20m/embeddings?api-version=2024-10-21",
        ),
        (
            "https://a.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
            "https://a.openai.azure.com/openai/deployments/d/embeddings?api-version=2024-10-21",
        ),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1/embeddings"),
    ],
)
def test_the_address_follows_from_the_base_url(base_url: str | None, url: str) -> None:
    assert address_for(base_url, "my m").url == url


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://h/v1",
        "h/v1",
        "",
        " ",
        "http://",
        "http://h:99999/v1",
        "http://a b/v1",
        "http://[::1/v1",
        "https://me:sesame@h/v1",
        "https://h/v1?key=sesame",
        "https://h/v1?API-KEY=sesame",
    ],
)
def test_an_address_that_cannot_work_or_holds_a_secret_is_refused(base_url: str) -> None:
    if not base_url:
        assert address_for(base_url, "m").host == "api.openai.com"
        return
    with pytest.raises(ConfigurationError, match="base_url") as raised:
        address_for(base_url, "m")
    assert "sesame" not in str(raised.value)


def test_the_key_goes_where_the_host_wants_it() -> None:
    assert headers_for(address_for(None, "m"), " k \n")["Authorization"] == "Bearer k"
    azure = headers_for(address_for("https://a.openai.azure.com", "m"), "k")
    assert azure["api-key"] == "k"
    assert "Authorization" not in azure
    assert "Authorization" not in headers_for(address_for("http://h", "m"), None)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://a.openai.azure.us", "https://a.openai.azure.us/openai/v1/embeddings"),
        (
            "https://gate.example?api-version=v",
            "https://gate.example/openai/deployments/m/embeddings?api-version=v",
        ),
        (
            "https://gate.example/ai/openai/deployments/d",
            "https://gate.example/ai/openai/deployments/d/embeddings",
        ),
    ],
)
def test_azure_is_known_behind_other_names(base_url: str, url: str) -> None:
    address = address_for(base_url, "m")
    assert address.url == url
    assert headers_for(address, "k")["api-key"] == "k"


def test_a_path_that_others_have_too_is_not_taken_for_azure() -> None:
    groq = address_for("https://api.groq.com/openai/v1", "m")
    assert headers_for(groq, "k")["Authorization"] == "Bearer k"


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        OpenAIProvider(spec_for(None), api_key=key)
    assert key not in str(raised.value)


async def test_parameters_are_merged_and_null_takes_one_out(stand_in: RunningProvider) -> None:
    stand_in.reset(dimensions=64)
    fields: dict[str, object] = {
        "params": {"user": "u", "truncation": False, "gone": 1},
        "query_params": {"input_type": "query", "gone": None},
        "document_params": {"input_type": "document", "user": "d"},
    }
    await ask(stand_in, ["t"], Purpose.QUERY, **fields)
    await ask(stand_in, ["t"], Purpose.DOCUMENT, **fields)
    query, document = (seen.parameters for seen in stand_in.requests())
    common = {"model": "m", "encoding_format": "base64", "truncation": False}
    assert query == {**common, "user": "u", "input_type": "query"}
    assert document == {**common, "user": "d", "input_type": "document", "gone": 1}


async def test_prefixes_stand_before_the_text(stand_in: RunningProvider) -> None:
    stand_in.reset(dimensions=64)
    fields = {"query_prefix": "query: ", "document_prefix": "passage: "}
    query = await ask(stand_in, ["t"], Purpose.QUERY, **fields)
    document = await ask(stand_in, ["t"], Purpose.DOCUMENT, **fields)
    assert np.array_equal(query.vectors, vectors_for(["query: t"], 64))
    assert np.array_equal(document.vectors, vectors_for(["passage: t"], 64))


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"model": "text-embedding-3-small", "dimensions": 256}, {"dimensions": 256}),
        ({"model": "text-embedding-3-small", "dimensions": 1536}, {}),
        ({"model": "voyage-3.5", "dimensions": 512}, {"output_dimension": 512}),
        ({"model": "voyage-3.5", "dimensions": 2048}, {"output_dimension": 2048}),
        ({"model": "jina-embeddings-v3", "dimensions": 128}, {"dimensions": 128}),
        ({"model": "unheard-of", "dimensions": 64}, {}),
        ({"model": "unheard-of", "dimensions": 32, "params": {"dimensions": 32}}, {"dimensions": 32}),
    ],
)
async def test_dimensions_are_sent_only_where_they_must_be(
    stand_in: RunningProvider, fields: dict[str, object], sent: dict[str, int]
) -> None:
    stand_in.reset(dimensions=fields["dimensions"])
    answer = await ask(stand_in, ["t"], **fields)
    parameters = stand_in.requests()[-1].parameters
    assert {name: parameters[name] for name in parameters if "dimension" in name} == sent
    assert answer.vectors.shape == (1, fields["dimensions"])


async def test_a_model_of_another_size_says_what_to_set(stand_in: RunningProvider) -> None:
    stand_in.reset(dimensions=768)
    with pytest.raises(BadResponseError, match=r"768 dimensions where 64 are set.*dimensions to 768"):
        await ask(stand_in, ["t"])


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "text-embedding-ada-002", "dimensions": 512},
        {"model": "text-embedding-3-small", "dimensions": 3072},
        {"params": {"dimensions": 12}},
        {"params": {"model": "other"}},
        {"query_params": {"input": "x"}},
        {"document_params": {"output_dtype": "int8"}},
        {"params": {"x": object()}},
        {"max_inputs_per_call": 0},
    ],
)
def test_a_spec_that_can_never_work_fails_before_any_call(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        OpenAIProvider(spec_for(None, **fields), api_key=None)


async def test_a_parameter_the_server_does_not_take_is_the_operators_matter(
    stand_in: RunningProvider,
) -> None:
    stand_in.reset(dimensions_parameter="reject")
    with pytest.raises(ProviderRefusedError, match='does not take "dimensions"'):
        await ask(stand_in, ["t"], params={"dimensions": 64})
    stand_in.reset(dimensions=64, known_parameters=["encoding_format"])
    with pytest.raises(ProviderRefusedError, match='does not take "input_type"'):
        await ask(stand_in, ["t"], params={"input_type": "query"})


@pytest.mark.parametrize("refusal", ["reject", "reject_vaguely"])
async def test_a_refused_encoding_is_learnt_once(stand_in: RunningProvider, refusal: str) -> None:
    stand_in.reset(dimensions=64, base64=refusal)
    provider = OpenAIProvider(spec_for(stand_in.base_url), api_key=None)
    for _ in range(3):
        answer = await provider.embed(["t"], Purpose.DOCUMENT)
        assert np.array_equal(answer.vectors, vectors_for(["t"], 64))
    await provider.aclose()
    assert stand_in.stats()["calls_by_status"] == {"400": 1, "200": 3}


async def test_a_poisoned_first_call_teaches_nothing_wrong(stand_in: RunningProvider) -> None:
    stand_in.reset(dimensions=64, base64="reject_vaguely", poison="arsenic")
    provider = OpenAIProvider(spec_for(stand_in.base_url), api_key=None)
    with pytest.raises(InputRejectedError):
        await provider.embed(["arsenic"], Purpose.DOCUMENT)
    assert (await provider.embed(["t"], Purpose.DOCUMENT)).vectors.shape == (1, 64)
    stand_in.forget_counts()
    with pytest.raises(InputRejectedError):
        await provider.embed(["arsenic"], Purpose.DOCUMENT)
    assert stand_in.stats()["calls"] == 1
    await provider.aclose()


async def test_ones_own_encoding_format_is_sent_as_it_is(stand_in: RunningProvider) -> None:
    stand_in.reset(dimensions=64)
    answer = await ask(stand_in, ["t"], params={"encoding_format": "float"})
    assert stand_in.requests()[-1].parameters["encoding_format"] == "float"
    assert np.array_equal(answer.vectors, vectors_for(["t"], 64))


async def test_fifty_calls_at_once_use_fifty_connections_and_keep_them(stand_in: RunningProvider) -> None:
    stand_in.reset(dimensions=64, latency_ms=200)
    provider = OpenAIProvider(spec_for(stand_in.base_url), api_key=None)
    for _ in range(2):
        batches = [[f"text {number}"] for number in range(50)]
        answers = await asyncio.gather(*(provider.embed(batch, Purpose.DOCUMENT) for batch in batches))
        for batch, answer in zip(batches, answers, strict=True):
            assert np.array_equal(answer.vectors, vectors_for(batch, 64))
    stats = stand_in.stats()
    assert stats["max_in_flight"] == 50
    assert stats["max_connections"] <= 52
    await provider.aclose()


def test_an_unknown_provider_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="local, openai"):
        build_provider(
            ProviderSpec(provider="opneai", model="m", dimensions=1),
            api_key=None,
            models_dir=None,
            threads=None,
        )


async def test_an_answer_is_read_in_pieces_as_large_as_the_socket_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """httpcore asks for 64 kB at a time: each piece that asyncio has read is cut in four then, and copied as often."""
    sizes: list[int] = []
    read = AnyIOStream.read

    async def noted(stream: AnyIOStream, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        piece = await read(stream, max_bytes, timeout)
        sizes.append(len(piece))
        return piece

    monkeypatch.setattr(AnyIOStream, "read", noted)
    texts = [f"text {number}" for number in range(2000)]
    with start_provider(dimensions=1536) as running:
        response = await ask(running, texts, dimensions=1536)
    assert np.allclose(response.vectors, vectors_for(texts, 1536), atol=1e-6)
    assert max(sizes) > 64 * 1024
