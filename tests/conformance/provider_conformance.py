"""What every EmbeddingProvider keeps, whatever is behind it. A test module subclasses ProviderConformance
and gives the `provider` fixture; nothing here knows which one it is."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from embedmill.errors import ProviderError
from embedmill.ports import EmbeddingProvider, EmbeddingResponse, Purpose

TEXTS = [
    "The lighthouse keeper counted the ships.",
    "Quarterly revenue rose by four percent.",
    "Cats sleep through most of the afternoon.",
    "A vector is a list of numbers.",
    "Boil the potatoes for twenty minutes.",
]
STRANGE_TEXTS = [
    "日本語のテキストと漢字",
    "مرحبا بالعالم",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈",
    "e\u0301 and é",
    "tab\tnew\nline\r\nend",
    'quotes " and \\ and </script>',
    "\u200b\ufeffinvisible",
    "control \x01\x1f\x7f",
    "x",
    " ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 " * 20,
]


class ProviderConformance:
    tolerance = 0.0
    """How far the vector of one text may move when it is sent among others (arithmetic in batches)."""

    def same(self, one: np.ndarray, other: np.ndarray) -> bool:
        return bool(np.allclose(one, other, rtol=0, atol=self.tolerance))

    async def test_is_an_embedding_provider(self, provider: EmbeddingProvider) -> None:
        assert isinstance(provider, EmbeddingProvider)
        assert provider.model
        assert provider.dimensions >= 1

    async def test_limits_are_sane(self, provider: EmbeddingProvider) -> None:
        limits = provider.limits
        assert limits.max_inputs_per_call >= 1
        assert 1 <= limits.max_tokens_per_input <= limits.max_tokens_per_call

    @pytest.mark.parametrize("purpose", list(Purpose))
    async def test_answers_one_finite_vector_for_each_input(
        self, provider: EmbeddingProvider, purpose: Purpose
    ) -> None:
        answer = await provider.embed(TEXTS, purpose)
        assert answer.vectors.shape == (len(TEXTS), provider.dimensions)
        assert answer.vectors.dtype == np.float32
        assert answer.vectors.flags["C_CONTIGUOUS"]
        assert np.isfinite(answer.vectors).all()
        assert answer.vectors.any(axis=1).all()

    async def test_says_a_plausible_token_count_or_none(self, provider: EmbeddingProvider) -> None:
        answer = await provider.embed(TEXTS, Purpose.DOCUMENT)
        assert answer.tokens is None or answer.tokens >= len(TEXTS)
        assert answer.model

    async def test_keeps_the_order_of_the_inputs(self, provider: EmbeddingProvider) -> None:
        forwards = await provider.embed(TEXTS, Purpose.DOCUMENT)
        backwards = await provider.embed(TEXTS[::-1], Purpose.DOCUMENT)
        assert self.same(forwards.vectors, backwards.vectors[::-1])

    async def test_neighbours_do_not_matter(self, provider: EmbeddingProvider) -> None:
        together = await provider.embed([*TEXTS, "long " * 100], Purpose.DOCUMENT)
        for row, text in enumerate(TEXTS):
            alone = await provider.embed([text], Purpose.DOCUMENT)
            assert self.same(alone.vectors[0], together.vectors[row])

    async def test_different_texts_get_different_vectors_and_equal_ones_the_same(
        self, provider: EmbeddingProvider
    ) -> None:
        answer = await provider.embed([*TEXTS, TEXTS[0]], Purpose.DOCUMENT)
        assert len({row.tobytes() for row in answer.vectors[:-1]}) == len(TEXTS)
        assert self.same(answer.vectors[-1], answer.vectors[0])

    async def test_an_empty_list_gives_an_empty_array(self, provider: EmbeddingProvider) -> None:
        answer = await provider.embed([], Purpose.DOCUMENT)
        assert answer.vectors.shape == (0, provider.dimensions)
        assert answer.vectors.dtype == np.float32
        assert not answer.tokens

    async def test_takes_any_sequence(self, provider: EmbeddingProvider) -> None:
        as_tuple = await provider.embed(tuple(TEXTS), Purpose.DOCUMENT)
        as_list = await provider.embed(TEXTS, Purpose.DOCUMENT)
        assert self.same(as_tuple.vectors, as_list.vectors)

    async def test_takes_every_script_and_sign(self, provider: EmbeddingProvider) -> None:
        answer = await provider.embed(STRANGE_TEXTS, Purpose.DOCUMENT)
        assert answer.vectors.shape == (len(STRANGE_TEXTS), provider.dimensions)
        reversed_answer = await provider.embed(STRANGE_TEXTS[::-1], Purpose.DOCUMENT)
        assert self.same(answer.vectors, reversed_answer.vectors[::-1])

    async def test_takes_a_full_call(self, provider: EmbeddingProvider) -> None:
        count = min(provider.limits.max_inputs_per_call, 300)
        texts = [f"number {number}" for number in range(count)]
        answer = await provider.embed(texts, Purpose.DOCUMENT)
        assert answer.vectors.shape == (count, provider.dimensions)
        alone = await provider.embed(texts[-1:], Purpose.DOCUMENT)
        assert self.same(alone.vectors[0], answer.vectors[-1])

    async def test_calls_side_by_side_do_not_mix(self, provider: EmbeddingProvider) -> None:
        batches = [[f"{text} {number}" for text in TEXTS] for number in range(12)]
        answers = await asyncio.gather(*(provider.embed(batch, Purpose.DOCUMENT) for batch in batches))
        for batch, answer in zip(batches, answers, strict=True):
            again = await provider.embed(batch, Purpose.DOCUMENT)
            assert self.same(again.vectors, answer.vectors)

    async def test_a_cancelled_call_ends_and_the_next_one_works(self, provider: EmbeddingProvider) -> None:
        call = asyncio.create_task(provider.embed(TEXTS * 4, Purpose.DOCUMENT))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        answer = await provider.embed(TEXTS, Purpose.DOCUMENT)
        assert answer.vectors.shape == (len(TEXTS), provider.dimensions)

    async def test_half_a_surrogate_pair_is_answered_or_refused_as_a_provider_error(
        self, provider: EmbeddingProvider
    ) -> None:
        outcome = await asyncio.gather(
            provider.embed(["fine", "broken \ud800 text"], Purpose.DOCUMENT), return_exceptions=True
        )
        if isinstance(outcome[0], EmbeddingResponse):
            assert outcome[0].vectors.shape == (2, provider.dimensions)
        else:
            assert isinstance(outcome[0], ProviderError)
            assert not outcome[0].retryable

    async def test_may_be_closed_twice(self, provider: EmbeddingProvider) -> None:
        await provider.embed(TEXTS, Purpose.QUERY)
        await provider.aclose()
        await provider.aclose()
