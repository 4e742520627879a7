"""The worker in plain SQL (examples/sql_worker.sql), run by psql against the stand-in provider: beside a Python
worker until nothing is left, and with a provider that refuses, fails and answers nonsense."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.psql import find_psql
from tests.support import audit
from tests.support.commands import CommandLine
from tests.support.provider import RunningProvider
from tests.support.provider.vectors import vector_for
from tests.support.psql import ROOT, need_curl, run_psql
from tests.support.work import (
    DIMENSIONS,
    add_document,
    missing_chunks,
    set_price,
    stand_in_pipeline,
    stored_vectors,
)

EMPTY = 3  # psql's status after an error of the script
SCRIPT = str(ROOT / "examples" / "sql_worker.sql")


@pytest.fixture(autouse=True, scope="module")
def _curl() -> None:
    need_curl()


@pytest.fixture
async def served(app: App, provider: RunningProvider) -> Pipeline:
    return await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS, max_inputs_per_call=10)


def variables(provider: RunningProvider, worker: str) -> dict[str, str]:
    return {
        "worker": worker,
        "pipeline": "standin",
        "items": "2",
        "url": provider.base_url,
        "model": "stand-in",
        "dimensions": str(DIMENSIONS),
    }


async def turn(app: App, provider: RunningProvider, status: int = 0) -> str:
    """One turn of a worker of its own; returns all that psql said."""
    done = await asyncio.to_thread(
        run_psql, app.database.url, "-f", SCRIPT, variables=variables(provider, str(uuid4()))
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


async def until_empty(app: App, provider: RunningProvider) -> None:
    """As the head of the example says: again and again, until it ends by itself."""
    command = [
        "sh",
        "-c",
        'while "$@"; do :; done',
        "loop",
        find_psql(),
        app.database.url,
        "-XqAt",
        "-f",
        SCRIPT,
    ]
    for name, value in variables(provider, str(uuid4())).items():
        command += ["-v", f"{name}={value}"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 200)
    assert "ERROR:  the queue is empty" in said.decode(), said.decode()


async def test_it_drains_the_queue_beside_a_python_worker(
    app: App, served: Pipeline, provider: RunningProvider, tmp_path: Path
) -> None:
    texts = [
        [f"Grain {n} of sack {sack}\n\"quoted\" \\ : 'ground' $1" for n in range(3)] for sack in range(150)
    ]
    for sack, content in enumerate(texts):
        await add_document(app, served, str(sack), content)
    await turn(app, provider)  # it has had its share
    command_line = CommandLine(tmp_path, app.database.url)
    python = command_line.start("worker", "--until-empty")
    try:
        while not await app.database.fetch(
            "SELECT 1 FROM embedmill.embedding_queue_workers WHERE version <> 'sql'"
        ):
            assert python.poll() is None, python.communicate()
            await asyncio.sleep(0.05)
        await until_empty(app, provider)
        said, complaints = await asyncio.to_thread(python.communicate, timeout=60)
    finally:
        python.kill()
    assert python.returncode == 0, said + complaints

    assert await missing_chunks(app, served) == 0
    vectors = await stored_vectors(app, served)
    assert len(vectors) == 450
    for _, text, vector in vectors:
        assert (vector == vector_for(text, DIMENSIONS)).all()
    assert set(provider.paid_for([text for content in texts for text in content])) == {1}
    await audit.assert_books_balance(app)
    shares = await app.database.fetch(
        "SELECT w.version = 'sql', count(*) FROM embedmill.embedding_queue_history h "
        "  JOIN embedmill.embedding_queue_workers w USING (worker_id) WHERE h.status = 'completed' "
        " GROUP BY 1 ORDER BY 1"
    )
    assert [share[0] for share in shares] == [False, True], f"one kind of worker did it all: {shares}"
    assert sum(share[1] for share in shares) == 150
    ledger = await app.database.fetch("SELECT sum(input_tokens) FROM embedmill.llm_usage_log")
    assert ledger == [(provider.stats()["tokens_paid"],)]
    assert {row[1] for row in await audit.newest_jobs(app)} == {"completed"}


async def test_what_it_was_charged_stands_in_the_ledger_and_on_the_jobs(
    app: App, provider: RunningProvider
) -> None:
    pipeline = await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS)
    await set_price(app, 20000)
    for n in range(5):
        await add_document(app, pipeline, str(n), [f"text {n}", *["and more"] * n])
    await app.database.fetch(
        "UPDATE embedmill.ingestion_jobs SET cost_usd = 0"
    )  # the price was not known then
    await until_empty(app, provider)
    paid = provider.stats()["tokens_paid"]
    sums = await app.database.fetch(
        "SELECT (SELECT sum(input_tokens) FROM embedmill.llm_usage_log), "
        "       (SELECT sum(cost_usd)::float FROM embedmill.llm_usage_log), "
        "       (SELECT sum(actual_tokens) FROM embedmill.embedding_queue_history), "
        "       (SELECT sum(paid_tokens) FROM embedmill.ingestion_jobs), "
        "       (SELECT sum(cost_usd)::float FROM embedmill.ingestion_jobs)"
    )
    assert sums == [(paid, pytest.approx(paid / 50), paid, paid, pytest.approx(paid / 50))]


async def test_a_429_is_no_failed_attempt_and_holds_everybody_back(
    app: App, served: Pipeline, provider: RunningProvider
) -> None:
    for n in range(3):
        await add_document(app, served, str(n), [f"text {n}"])
    provider.configure(faults=["429"], retry_after_seconds=3)
    assert "rate_limited" in await turn(app, provider)
    rows = await app.database.fetch(
        "SELECT status::text, retry_count, rate_limit_delay_ms, available_at > processing_started_at + interval '3 s' "
        "  FROM embedmill.embedding_queue ORDER BY id"
    )
    assert rows == [("rate_limited", 0, 3_000, True)] * 2 + [("pending", 0, None, None)]
    assert "no quota" in await turn(app, provider)
    assert provider.stats()["calls"] == 1, "the shared quota cools down: nobody calls"
    assert (await audit.live_items(app))[2][1:] == ("pending", 0, 0)
    await until_empty(app, provider)
    assert await missing_chunks(app, served) == 0


@pytest.mark.parametrize(
    "fault", ["500", "drop", "short", "nan", "wrong_dims", "html", "not_json", "empty", "hang_up_at_once"]
)
async def test_a_failed_call_is_an_attempt_and_stores_nothing_wrong(
    app: App, served: Pipeline, provider: RunningProvider, fault: str
) -> None:
    await add_document(app, served, "one", ["first text", "second text"])
    if fault == "hang_up_at_once":
        await app.database.fetch("SELECT 1")
        told = variables(provider, str(uuid4())) | {"url": "http://127.0.0.1:9/v1"}
        done = await asyncio.to_thread(run_psql, app.database.url, "-f", SCRIPT, variables=told)
        assert done.returncode == 0, done.stderr
    else:
        provider.configure(faults=[fault])
        await turn(app, provider)
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 1, 0)]
    for _, text, vector in await stored_vectors(app, served):
        assert (vector == vector_for(text, DIMENSIONS)).all()
    await app.database.fetch("UPDATE embedmill.embedding_queue SET available_at = now()")
    await until_empty(app, provider)
    assert len(await stored_vectors(app, served)) == 2
    await audit.assert_books_balance(app)


async def test_without_quota_it_gives_back_what_it_took(app: App, provider: RunningProvider) -> None:
    pipeline = await stand_in_pipeline(app, provider.base_url, dimensions=DIMENSIONS, calls_per_minute=60)
    for n in range(4):
        await add_document(app, pipeline, str(n), [f"text {n}"])
    await turn(app, provider)
    # However long a turn takes to begin here, nothing is to be had by then.
    await app.database.fetch("UPDATE embedmill.quotas SET calls_per_minute = 1 WHERE calls_per_minute = 60")
    assert "no quota" in await turn(app, provider)
    assert [row[1:] for row in await audit.live_items(app)] == [("pending", 0, 0)] * 2
    await app.database.fetch("UPDATE embedmill.quotas SET calls_per_minute = 60 WHERE calls_per_minute = 1")
    await until_empty(app, provider)
    assert await missing_chunks(app, pipeline) == 0


async def test_a_deletion_needs_no_provider(app: App, served: Pipeline, provider: RunningProvider) -> None:
    await add_document(app, served, "one", ["first text"])
    await until_empty(app, provider)
    await app.database.fetch(
        "SELECT embedmill.enqueue_embedding('test', 'one', 'DELETE', p_pipeline => 'standin')"
    )
    provider.forget_counts()
    await until_empty(app, provider)
    assert await stored_vectors(app, served) == []
    assert await app.database.fetch("SELECT id FROM embedmill.knowledge_documents") == []
    assert provider.stats()["calls"] == 0


async def test_an_empty_queue_ends_the_loop(app: App, served: Pipeline, provider: RunningProvider) -> None:
    assert "the queue is empty" in await turn(app, provider, EMPTY)
