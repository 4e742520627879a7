"""Answers that do not fit the question: never stored; tried again, apart from the neighbours; in the end a dead
letter with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.errors import BadResponseError
from embedmill.events import CallFailed
from embedmill.ports import EmbeddingResponse, ProviderLimits, Purpose
from tests.embed.desk import Run, embed_until_idle
from tests.support import audit
from tests.support.provider import RunningProvider, vector_for, vectors_for
from tests.support.queue_rows import grow_older
from tests.support.work import add_document, missing_chunks, stand_in_pipeline, stored_vectors

FAULTS = [
    "short",
    "extra",
    "nan",
    "inf",
    "zero",
    "wrong_dims",
    "mixed_dims",
    "duplicate_index",
    "html",
    "not_json",
]
TEXTS = [f"text {n}" for n in range(5)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_wrong_answer_is_not_stored_and_costs_an_attempt(
    app: App, pipeline: Pipeline, provider: RunningProvider, fault: str
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    provider.configure(faults=[fault])
    await Run(app, pipeline)()
    assert await stored_vectors(app, pipeline) == []
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 1, 0)]
    paid = await app.database.fetch("SELECT input_tokens > 0, error IS NOT NULL FROM embedmill.llm_usage_log")
    assert paid == [(True, True)]
    await grow_older(app.database, 1000)
    await Run(app, pipeline)()
    for _, text, vector in await stored_vectors(app, pipeline):
        assert np.abs(vector - vector_for(text, 16)).max() < 1e-6
    assert await missing_chunks(app, pipeline) == 0
    await audit.assert_books_balance(app)


async def test_right_answers_in_another_order_are_put_right(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    provider.configure(faults=["reordered"])
    await Run(app, pipeline)()
    assert await missing_chunks(app, pipeline) == 0
    for _, text, vector in await stored_vectors(app, pipeline):
        assert np.abs(vector - vector_for(text, 16)).max() < 1e-6


async def test_the_suspects_are_tried_apart_so_that_one_cannot_take_its_neighbours_along(
    app: App, pipeline: Pipeline
) -> None:
    for number in range(5):
        await add_document(app, pipeline, f"doc {number}", [f"{number} good", f"{number} also good"])
    await add_document(app, pipeline, "cursed", ["a cursed text", "beside it"])
    curse = CursedProvider("cursed")
    await Run(app, pipeline, provider=curse)()
    for _ in range(5):
        await grow_older(app.database, 1000)
        await Run(app, pipeline, provider=curse)()
    stored = {text for _, text, _ in await stored_vectors(app, pipeline)}
    assert stored == {f"{n} {word}" for n in range(5) for word in ("good", "also good")}
    ended = await audit.ended_items(app)
    assert sorted(row[:2] for row in ended) == [("completed", 1)] * 5 + [("failed", 4)]
    assert [letter[0] for letter in await audit.dead_letters(app)] == ["bad_response"]
    assert "cursed answer" in (await audit.dead_letters(app))[0][2]
    assert max(len(call) for call in curse.calls[2:]) <= 2
    await audit.assert_books_balance(app)


async def test_answers_wrong_without_end_end_in_a_dead_letter(
    app: App, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_document(app, pipeline, "doc", TEXTS)
    provider.configure(faults=["nan"] * 20)
    await embed_until_idle(app, pipeline)
    assert await stored_vectors(app, pipeline) == []
    assert provider.stats()["calls"] == 4
    ((reason, _, message),) = await audit.dead_letters(app)
    assert reason == "bad_response"
    assert "not finite" in message
    await audit.assert_books_balance(app)


async def test_numbers_too_large_for_halfvec_are_a_wrong_answer_and_no_end_of_the_worker(
    app: App, provider: RunningProvider
) -> None:
    pipeline = await stand_in_pipeline(app, provider.base_url, dimensions=16, storage="halfvec")
    await add_document(app, pipeline, "doc", TEXTS)
    run = await Run(app, pipeline, provider=LoudProvider())()
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 1, 0)]
    assert "halfvec" in run.of(CallFailed)[-1].message
    paid = await app.database.fetch("SELECT input_tokens > 0, error IS NOT NULL FROM embedmill.llm_usage_log")
    assert paid == [(True, True)]
    await audit.assert_books_balance(app)


class CursedProvider:
    """Answers rightly, except calls that carry a certain word: as a server whose kernel breaks on one text."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.calls: list[Sequence[str]] = []
        self.model, self.dimensions = "cursed", 16
        self.limits = ProviderLimits(100, 10_000, 1000)

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        self.calls.append(inputs)
        if any(self.word in text for text in inputs):
            raise BadResponseError("a cursed answer")
        return EmbeddingResponse(vectors_for(inputs, 16), len(inputs), self.model)

    async def aclose(self) -> None:
        pass


class LoudProvider(CursedProvider):
    """Vectors of finite numbers, of which one is beyond a half-precision float."""

    def __init__(self) -> None:
        super().__init__("never said")

    async def embed(self, inputs: Sequence[str], purpose: Purpose) -> EmbeddingResponse:
        answer = await super().embed(inputs, purpose)
        answer.vectors[-1, 3] = 70_000.0
        return answer
