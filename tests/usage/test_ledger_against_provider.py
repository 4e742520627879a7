"""The ledger beside the provider's own count, after runs in which a tenth of the calls fails in every way.

What a failed call was charged stands in its row. Of a bad answer we know that it was paid; of a connection that broke
or was silent we do not, and its row says what it cost if it was: the books never show less than the bill. So both are
equal where every call of unknown outcome was paid; and where some were not, the ledger is above the bill by exactly
these calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from embedmill.core.documents import Chunk, ParsedDocument
from embedmill.database.pipelines import Pipeline
from embedmill.ingest.storing import SourceContent, Storing
from embedmill.worker.loop import Worker
from tests.support import audit
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.provider.vectors import tokens_for
from tests.support.serving import Serving, serving
from tests.support.work import DIMENSIONS, missing_chunks, stand_in_pipeline

DOCUMENTS = 40
CHUNKS_EACH = 75
INPUTS_PER_CALL = 5
WORKERS = 3
# Each of these is answered so once in a while, to whichever call comes next.
KNOWN_OR_PAID = (
    "hang_paid", "drop_after", "drop_mid", "short", "extra", "duplicate_index", "nan", "wrong_dims", "html",
    "not_json", "empty", "429", "500", "503",
)  # fmt: skip
UNKNOWN_AND_UNPAID = ("drop", "hang", "504")


@pytest.fixture
def provider(provider_process: RunningProvider) -> RunningProvider:
    provider_process.reset(dimensions=DIMENSIONS, latency_ms=20, retry_after_seconds=0.2, retry_after="ms")
    return provider_process


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Serving]:
    """Its workers are the test's."""
    async with serving(
        database, tmp_path, works=False, calls_in_flight=2, requests_per_minute=1_000_000
    ) as one:
        yield one


@pytest.fixture
async def pipeline(service: Serving, provider: RunningProvider) -> Pipeline:
    return await stand_in_pipeline(
        service.app,
        provider.base_url,
        dimensions=DIMENSIONS,
        max_inputs_per_call=INPUTS_PER_CALL,
        timeout_seconds=2.0,
        price_per_million_tokens=1,
    )


async def add_documents(service: Serving, pipeline: Pipeline, documents: int) -> None:
    """Launched documents whose chunks have the tokens that the provider counts: no estimate is off."""
    for number in range(documents):
        texts = paragraphs(CHUNKS_EACH, seed=number).split("\n\n")
        chunks, start = [], 0
        for ordinal, text in enumerate(texts):
            chunks.append(Chunk(ordinal, start, start + len(text), text, tokens_for(text)))
            start += len(text) + 1
        whole = "\n".join(texts)
        content = SourceContent(
            "test", str(number), str(number), len(whole), hashlib.sha256(whole.encode()).digest()
        )
        storing = Storing(service.app.database, pipeline, batch_id=uuid4())
        await storing.save(content, ParsedDocument(text=whole, media_type="text/plain"), chunks)


def query_of(words: int) -> str:
    """A query whose tokens are what is expected of its bytes, before the provider has counted."""
    query = " ".join(["abc", *["de"] * (words - 1)])
    assert tokens_for(query) == len(query) // 3
    return query


async def go_wrong(
    provider: RunningProvider, faults: Sequence[str], chance: random.Random, done: asyncio.Event
) -> None:
    """One call in ten or so, in every way in turn."""
    told = 0
    while not done.is_set():
        calls = (await asyncio.to_thread(provider.stats))["calls"]
        if calls >= 10 * told:
            await asyncio.to_thread(provider.configure, faults=[faults[told % len(faults)]])
            told += 1
        await asyncio.sleep(chance.uniform(0.0, 0.05))
    await asyncio.to_thread(provider.configure, faults=[])


async def search(service: Serving, chance: random.Random, done: asyncio.Event) -> None:
    while not done.is_set():
        await service.client.post(
            "/search",
            json={"query": query_of(chance.randint(1, 20)), "pipeline": "standin", "mode": "vector"},
        )
        await asyncio.sleep(chance.uniform(0.0, 0.2))


async def cancel_and_resume(service: Serving, chance: random.Random) -> None:
    """People who cannot make up their minds, until all is completed."""
    cancels = DOCUMENTS // 2
    while unfinished := [job for job in await jobs_of(service) if job["status"] != "completed"]:
        job = chance.choice(unfinished)
        if job["status"] in {"cancelled", "failed"}:
            await act(service, job, "resume")
        elif cancels and chance.random() < 0.3:
            cancels -= 1
            await act(service, job, "cancel")
        await asyncio.sleep(0.05)


async def jobs_of(service: Serving) -> list[dict[str, Any]]:
    return list((await service.client.get("/ingestion-jobs?limit=500")).json()["jobs"])


async def act(service: Serving, job: dict[str, Any], what: str) -> None:
    response = await service.client.post(f"/ingestion-jobs/{job['jobId']}/{what}")
    assert response.status_code in {202, 409}, response.text  # it may have ended in between


async def run(service: Serving, provider: RunningProvider, faults: Sequence[str], seed: int) -> None:
    """Several workers, one of which is stopped and replaced, with searches, cancels and resumes in between."""
    chance = random.Random(seed)
    done = asyncio.Event()
    workers: list[Worker] = []
    async with asyncio.timeout(300), asyncio.TaskGroup() as tasks:

        def hire() -> None:
            workers.append(service.app.worker())
            tasks.create_task(workers[-1].run())

        for _ in range(WORKERS):
            hire()
        beside = [
            tasks.create_task(go_wrong(provider, faults, chance, done)),
            tasks.create_task(search(service, chance, done)),
        ]
        people = tasks.create_task(cancel_and_resume(service, chance))
        await asyncio.sleep(3.0)
        workers[0].stop()
        hire()
        await people
        done.set()
        await asyncio.wait(beside)
        for worker in workers:
            worker.stop()


async def charged(service: Serving) -> tuple[int, int, int]:
    """Tokens of the whole ledger, how many of its calls were charged, and the tokens of those that failed."""
    (row,) = await service.app.database.fetch(
        "SELECT sum(input_tokens), count(*) FILTER (WHERE input_tokens > 0), "
        "       sum(input_tokens) FILTER (WHERE error IS NOT NULL) FROM embedmill.llm_usage_log"
    )
    return row[0], row[1], row[2]


@pytest.mark.timeout(400)
async def test_with_a_tenth_of_the_calls_failing_the_ledger_is_the_provider_s_bill(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_documents(service, pipeline, DOCUMENTS)
    await run(service, provider, KNOWN_OR_PAID, seed=5)
    counted = provider.stats()
    tokens, calls, failed_tokens = await charged(service)
    assert counted["calls"] > DOCUMENTS * CHUNKS_EACH // INPUTS_PER_CALL
    assert all(
        counted["calls_by_status"].get(word) for word in ("hang_paid", "drop_after", "drop_mid", "429", "500")
    )
    assert failed_tokens > 0
    assert calls == counted["calls_paid"]
    assert tokens == counted["tokens_paid"]
    usage = (await service.client.get("/usage?groupBy=usage_type")).json()
    assert usage["total"]["totalTokens"] == counted["tokens_paid"]
    assert {row["group"] for row in usage["rows"]} == {"internal_ingestion", "query"}
    assert usage["total"]["costUsd"] == pytest.approx(counted["tokens_paid"] / 1e6, rel=1e-9)
    assert await missing_chunks(service.app, pipeline) == 0
    await audit.assert_books_balance(service.app)


@pytest.mark.timeout(400)
async def test_calls_of_unknown_outcome_that_cost_nothing_are_all_that_the_ledger_has_above_the_bill(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    await add_documents(service, pipeline, DOCUMENTS // 2)
    await run(service, provider, (*UNKNOWN_AND_UNPAID, "drop_after", "hang_paid"), seed=6)
    counted = provider.stats()
    tokens, calls, failed_tokens = await charged(service)
    unpaid = sum(counted["calls_by_status"].get(word, 0) for word in UNKNOWN_AND_UNPAID)
    assert unpaid > 10
    assert calls == counted["calls_paid"] + unpaid
    assert tokens - failed_tokens < counted["tokens_paid"] < tokens
