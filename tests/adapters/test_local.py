"""The local provider on the real bundled model: right vectors, in order, whatever the company they keep."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embedmill.adapters.providers.local import LocalProvider, available_cpus, plan_batches
from embedmill.adapters.providers.onnx_engine import QUICK_RUNS, OnnxEngine
from embedmill.adapters.tokenizers import load_token_counter
from embedmill.errors import (
    ConfigurationError,
    InputRejectedError,
    ProviderRefusedError,
    ProviderUnavailableError,
)
from embedmill.ports import EmbeddingProvider, ProviderSpec, Purpose

DATA = Path(__file__).parent / "data"
TEXTS: list[str] = json.loads((DATA / "local_texts.json").read_text())
REFERENCE = np.load(DATA / "local_minilm.npy")
SPEC = ProviderSpec("local", "all-MiniLM-L6-v2", 384)
TINY = ProviderSpec("local", str(DATA / "tiny-bert"), 16)
DOCUMENT, QUERY = Purpose.DOCUMENT, Purpose.QUERY


@pytest.fixture(scope="module")
def provider() -> Iterator[LocalProvider]:
    local = LocalProvider(SPEC, threads=2)
    yield local
    asyncio.run(local.aclose())


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@pytest.mark.parametrize("purpose", list(Purpose))
async def test_vectors_are_those_of_sentence_transformers(purpose: Purpose) -> None:
    local = LocalProvider(SPEC, threads=2)  # a new one: the session differs by the first purpose
    answer = await local.embed(TEXTS, purpose)
    await local.aclose()
    assert answer.vectors.shape == REFERENCE.shape
    assert answer.vectors.dtype == np.float32
    assert answer.vectors.flags.c_contiguous
    assert cosines(answer.vectors, REFERENCE).min() > 0.999999
    np.testing.assert_allclose(np.linalg.norm(answer.vectors, axis=1), 1, atol=1e-6)


async def test_vectors_stand_in_the_order_of_their_inputs(provider: LocalProvider) -> None:
    order = np.random.default_rng(7).permutation(len(TEXTS))
    answer = await provider.embed([TEXTS[number] for number in order], DOCUMENT)
    assert cosines(answer.vectors, REFERENCE[order]).min() > 0.999999


async def test_a_text_has_the_same_vector_alone_and_in_company(provider: LocalProvider) -> None:
    alone = [(await provider.embed([text], DOCUMENT)).vectors[0] for text in TEXTS[:20]]
    together = (await provider.embed(TEXTS[:20] * 9, DOCUMENT)).vectors
    np.testing.assert_allclose(together, np.tile(alone, (9, 1)), atol=1e-6)


async def test_calls_at_the_same_time_do_not_mix_their_vectors(provider: LocalProvider) -> None:
    slices = [TEXTS[start::8] for start in range(8)]
    answers = await asyncio.gather(*(provider.embed(each, DOCUMENT) for each in slices))
    for start, answer in enumerate(answers):
        assert cosines(answer.vectors, REFERENCE[start::8]).min() > 0.999999


async def test_many_queries_change_to_the_packed_session_and_keep_their_vectors() -> None:
    local = LocalProvider(SPEC, threads=1)
    vectors = [(await local.embed([TEXTS[6]], QUERY)).vectors[0] for _ in range(QUICK_RUNS + 3)]
    await local.aclose()
    assert cosines(np.array(vectors), np.tile(REFERENCE[6], (len(vectors), 1))).min() > 0.999999


async def test_tokens_are_counted_as_the_tokenizer_counts_them(provider: LocalProvider) -> None:
    counter = load_token_counter(None, SPEC.model, "local")
    answer = await provider.embed(TEXTS, DOCUMENT)
    assert answer.tokens == sum(min(256, tokens) for tokens in counter.count(TEXTS))
    assert max(counter.count(TEXTS)) > 256, "the fixture must reach beyond the model's limit"


async def test_no_inputs_give_no_vectors_and_load_nothing() -> None:
    local = LocalProvider(ProviderSpec("local", "/nowhere", 384))
    answer = await local.embed([], DOCUMENT)
    assert answer.vectors.shape == (0, 384)
    assert answer.tokens == 0
    await local.aclose()


async def test_half_a_surrogate_pair_is_refused_as_input_and_harms_no_later_call(
    provider: LocalProvider,
) -> None:
    with pytest.raises(InputRejectedError, match="surrogate"):
        await provider.embed(["fine", "\ud800"], DOCUMENT)
    assert (await provider.embed(["fine"], DOCUMENT)).vectors.shape == (1, 384)


async def test_limits_are_the_models_own_and_a_spec_can_only_lower_the_input() -> None:
    assert LocalProvider(SPEC).limits.max_tokens_per_input == 256
    narrow = ProviderSpec("local", SPEC.model, 384, max_inputs_per_call=3, max_tokens_per_input=100)
    assert LocalProvider(narrow).limits.max_tokens_per_input == 100
    assert LocalProvider(narrow).limits.max_inputs_per_call == 3
    wide = ProviderSpec("local", SPEC.model, 384, max_tokens_per_input=100_000)
    assert LocalProvider(wide).limits.max_tokens_per_input == 256


@pytest.mark.parametrize("dimensions", [256, 768])
async def test_other_dimensions_than_the_models_are_refused_with_the_right_number(dimensions: int) -> None:
    local = LocalProvider(ProviderSpec("local", SPEC.model, dimensions))
    with pytest.raises(ConfigurationError, match="set dimensions to 384"):
        await local.load()
    with pytest.raises(ProviderRefusedError, match="set dimensions to 384"):
        await local.embed(["text"], DOCUMENT)
    await local.aclose()


async def test_params_are_refused_instead_of_ignored() -> None:
    local = LocalProvider(ProviderSpec("local", SPEC.model, 384, params={"dimensions": 384}))
    with pytest.raises(ConfigurationError, match="takes no params"):
        await local.load()
    await local.aclose()


async def test_prefixes_go_before_the_text_of_their_purpose_only(provider: LocalProvider) -> None:
    prefixed = LocalProvider(ProviderSpec("local", SPEC.model, 384, query_prefix="query: "), threads=1)
    as_query = (await prefixed.embed(["tides"], QUERY)).vectors
    as_document = (await prefixed.embed(["tides"], DOCUMENT)).vectors
    await prefixed.aclose()
    plain = (await provider.embed(["query: tides", "tides"], DOCUMENT)).vectors
    np.testing.assert_allclose(np.vstack([as_query, as_document]), plain, atol=1e-6)


def test_it_is_an_embedding_provider() -> None:
    assert isinstance(LocalProvider(SPEC), EmbeddingProvider)


async def test_cancelling_a_call_drops_the_batches_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalProvider(TINY, threads=1)
    await local.load()
    started, go_on = asyncio.Event(), threading.Event()
    runs = []
    loop, real_run = asyncio.get_running_loop(), OnnxEngine.run

    def run(engine: OnnxEngine, ids: NDArray[np.int64], *, quick: bool = False) -> NDArray[np.float32]:
        runs.append(len(ids))
        loop.call_soon_threadsafe(started.set)
        go_on.wait()
        return real_run(engine, ids, quick=quick)

    monkeypatch.setattr(OnnxEngine, "run", run)
    call = asyncio.create_task(local.embed(["the " * 46] * 400, DOCUMENT))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go_on.set()
    await local.aclose()  # waits for the batch in hand
    assert len(runs) == 1


async def test_a_query_does_not_wait_behind_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    local = LocalProvider(TINY, threads=1)
    await local.load()
    query_done, real_run = threading.Event(), OnnxEngine.run

    def run(engine: OnnxEngine, ids: NDArray[np.int64], *, quick: bool = False) -> NDArray[np.float32]:
        if not quick:
            query_done.wait()
        return real_run(engine, ids, quick=quick)

    monkeypatch.setattr(OnnxEngine, "run", run)
    documents = asyncio.create_task(local.embed(["the " * 46] * 20, DOCUMENT))
    await local.embed(["the"], QUERY)
    query_done.set()
    assert (await documents).vectors.shape == (20, 16)
    await local.aclose()


async def test_a_closed_provider_says_so() -> None:
    local = LocalProvider(TINY)
    await local.embed(["the"], DOCUMENT)
    await local.aclose()
    await local.aclose()
    with pytest.raises(ProviderUnavailableError, match="closed"):
        await local.embed(["the"], DOCUMENT)


def test_one_provider_serves_event_loops_that_come_and_go(provider: LocalProvider) -> None:
    for number in (5, 6):
        answer = asyncio.run(partial(provider.embed, [TEXTS[number]], DOCUMENT)())
        assert cosines(answer.vectors, REFERENCE[number : number + 1]).min() > 0.999999


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("seed", range(5))
def test_a_plan_holds_each_input_once_in_runs_of_one_length(threads: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 300, size=200).tolist()
    batches = plan_batches(lengths, threads)
    assert sorted(position for batch in batches for position in batch) == list(range(200))
    assert all(len({lengths[position] for position in batch}) == 1 for batch in batches)
    assert all(sum(lengths[position] for position in batch) <= 512 for batch in batches)
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)


def test_a_small_call_is_shared_between_the_threads() -> None:
    assert len(plan_batches([200, 200], 2)) == 2
    assert len(plan_batches([128] * 8, 4)) == 4
    assert len(plan_batches([8] * 8, 4)) == 1, "too small to be worth sharing"


def test_no_threads_at_all_is_a_mistake_and_the_default_is_at_least_one() -> None:
    assert available_cpus() >= 1
    with pytest.raises(ConfigurationError, match="1 or more"):
        LocalProvider(SPEC, threads=0)
