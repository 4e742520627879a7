"""A budget is a hard stop in advance: however many embedders there are, what is spent never passes it."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from embedmill.app import App
from embedmill.database.pipelines import Pipeline, pipeline_of_generation
from embedmill.embed.direct import DirectEmbedder
from embedmill.queue.config import set_value
from embedmill.usage.budgets import (
    job_budget,
    remove_tenant_budget,
    set_job_budget,
    set_tenant_budget,
    tenant_budget,
)
from tests.embed.desk import Run
from tests.support import audit
from tests.support.provider import RunningProvider
from tests.support.queue_rows import register_worker
from tests.support.work import add_document, missing_chunks, set_price, stored_vectors

STATEMENTS = 10  # of one call, as before there were budgets and cancelling
TOKEN_USD = Decimal("0.001")  # a thousand dollars for a million: one token is a tenth of a cent


@pytest_asyncio.fixture
async def priced(app: App, pipeline: Pipeline) -> Pipeline:
    await set_price(app, 1000)
    return await pipeline_of_generation(app.database, pipeline.generation.id)


async def spent(app: App) -> Decimal:
    """By the ledger."""
    ((total,),) = await app.database.fetch("SELECT coalesce(sum(cost_usd), 0) FROM embedmill.llm_usage_log")
    return Decimal(total)


async def paused(app: App, job_id: UUID) -> tuple[Any, ...]:
    (row,) = await app.database.fetch(
        "SELECT status::text, paused_reason FROM embedmill.ingestion_jobs WHERE id = %s", (job_id,)
    )
    return row


async def crossings(app: App) -> int:
    ((count,),) = await app.database.fetch(
        "SELECT count(*) FROM embedmill.events WHERE type = 'budget.reached'"
    )
    return int(count)


async def open_reservations(app: App) -> tuple[Any, ...]:
    (row,) = await app.database.fetch(
        "SELECT (SELECT count(*) FROM embedmill.budget_reservations), sum(reserved_usd) FROM embedmill.budgets"
    )
    return row


async def parked(app: App) -> list[bool]:
    rows = await app.database.fetch(
        "SELECT available_at = 'infinity' FROM embedmill.embedding_queue WHERE error_message LIKE 'budget reached%'"
    )
    return [row[0] for row in rows]


async def test_four_at_once_never_pass_the_limit_and_raising_it_lets_them_finish(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=20)
    launched = [
        await add_document(app, priced, f"doc {n}", [f"text {n} {m}" for m in range(10)]) for n in range(20)
    ]
    limit = Decimal("0.50")
    await set_tenant_budget(app.database, priced.tenant_id, limit, period="total")
    await asyncio.gather(*(Run(app, priced)() for _ in range(4)))
    assert limit - 40 * TOKEN_USD * 2 < await spent(app) <= limit
    budget = await tenant_budget(app.database, priced.tenant_id)
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (await spent(app), 0)
    assert budget.reached_at is not None
    assert await crossings(app) == 1
    waiting = [
        one for one in launched if await paused(app, one.job_id) == ("embedding_in_progress", "budget")
    ]
    assert waiting
    assert len(await parked(app)) == len(await audit.live_items(app))
    assert all(await parked(app))

    calls = provider.stats()["calls"]
    await Run(app, priced)()
    assert provider.stats()["calls"] == calls, "what is parked is not claimed"

    await set_tenant_budget(app.database, priced.tenant_id, 100, period="total")
    await asyncio.gather(*(Run(app, priced)() for _ in range(2)))
    assert [await paused(app, one.job_id) for one in launched] == [("completed", None)] * 20
    assert await open_reservations(app) == (0, 0)
    assert provider.stats()["most_paid_for_one_input"] == 1
    assert await crossings(app) == 1
    await audit.assert_books_balance(app)


async def test_a_job_over_its_budget_leaves_its_neighbours_in_the_same_call_alone(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    tight, free = [
        await add_document(app, priced, name, [f"{name} {n}" for n in range(4)]) for name in ("tight", "free")
    ]
    await set_job_budget(app.database, priced.tenant_id, tight.job_id, 3 * TOKEN_USD)
    await Run(app, priced)()
    assert await paused(app, free.job_id) == ("completed", None)
    assert await paused(app, tight.job_id) == ("embedding_in_progress", "budget")
    assert {text.split()[0] for _, text, _ in await stored_vectors(app, priced)} == {"free"}
    assert await crossings(app) == 1
    assert [status for _, status, retries, _ in await audit.live_items(app) if retries == 0] == ["pending"]

    await set_job_budget(app.database, priced.tenant_id, tight.job_id, None)
    await Run(app, priced)()
    assert await paused(app, tight.job_id) == ("completed", None)
    assert await missing_chunks(app, priced) == 0


async def test_a_jobs_budget_counts_what_it_did_cost_and_no_more(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    one, two = [
        await add_document(app, priced, name, [f"{name} {n}" for n in range(25)]) for name in ("a", "b")
    ]
    for each in (one, two):
        await set_job_budget(app.database, priced.tenant_id, each.job_id, 5)
    await set_tenant_budget(app.database, priced.tenant_id, 5)
    await Run(app, priced)()
    budgets = [await job_budget(app.database, priced.tenant_id, each.job_id) for each in (one, two)]
    costs = await app.database.fetch("SELECT cost_usd FROM embedmill.ingestion_jobs ORDER BY created_at")
    assert [budget.spent_usd for budget in budgets if budget] == [row[0] for row in costs]
    whole = await tenant_budget(app.database, priced.tenant_id)
    assert whole is not None
    assert whole.spent_usd == await spent(app) == sum(row[0] for row in costs) > 0
    assert await open_reservations(app) == (0, 0)


async def test_calls_that_fail_or_are_limited_give_back_what_they_reserved_unless_they_were_charged(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(faults=["429", "500", "short"], retry_after_seconds=0.01)
    await add_document(app, priced, "doc", ["one", "two"])
    await set_tenant_budget(app.database, priced.tenant_id, 1)
    await Run(app, priced)()
    budget = await tenant_budget(app.database, priced.tenant_id)
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (await spent(app), 0)
    assert budget.spent_usd == 6 * TOKEN_USD, "the answer that was too short was charged"
    assert await open_reservations(app) == (0, 0)


async def test_reservations_of_a_dead_worker_are_waited_for_and_released_with_it(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    dead = await register_worker(app.database)
    await set_tenant_budget(app.database, priced.tenant_id, 10 * TOKEN_USD)
    await app.database.fetch(
        "SELECT embedmill.reserve_budget(%s, %s, %s, %s, '{}', '{}')",
        (priced.tenant_id, dead, uuid4(), 9 * TOKEN_USD),
    )
    launched = await add_document(app, priced, "doc", ["one", "two"])
    working = asyncio.create_task(Run(app, priced)())
    await asyncio.sleep(0.5)
    assert not working.done()
    assert await paused(app, launched.job_id) == ("embedding_in_progress", None)
    await app.database.fetch("SELECT embedmill.rescue_items(%s)", ([dead],))
    await working
    assert await paused(app, launched.job_id) == ("completed", None)
    assert (await open_reservations(app), await crossings(app)) == ((0, 0), 0)


async def test_what_is_enqueued_while_the_budget_is_reached_waits_too_and_a_new_month_frees_all(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    await set_tenant_budget(app.database, priced.tenant_id, 1 * TOKEN_USD)
    jobs = []
    for name in ("early", "late"):
        jobs.append(await add_document(app, priced, name, [f"{name} {n}" for n in range(3)]))
        await Run(app, priced)()
    assert [await paused(app, job.job_id) for job in jobs] == [("embedding_in_progress", "budget")] * 2
    assert (await parked(app), await crossings(app)) == ([True, True], 1)
    assert provider.stats()["calls"] == 0
    await app.database.fetch("SELECT embedmill.sweep_budgets()")
    assert await parked(app) == [True, True], "this month it stays reached"
    await app.database.fetch("SELECT embedmill.sweep_budgets(now() + interval '32 days')")
    assert await parked(app) == []
    assert [await paused(app, job.job_id) for job in jobs] == [("embedding_in_progress", None)] * 2


async def test_a_worker_in_sql_spends_too_and_the_sweep_stops_what_is_left(
    app: App, priced: Pipeline
) -> None:
    jobs = [await add_document(app, priced, name, [name]) for name in ("one", "two")]
    await set_tenant_budget(app.database, priced.tenant_id, 5 * TOKEN_USD)
    worker = uuid4()
    ((item, token),) = await app.database.fetch(
        "SELECT item_id, lease_token FROM embedmill.get_next_embedding_batch(%s, 1, 'standin')", (worker,)
    )
    await app.database.fetch(
        "SELECT embedmill.complete_embedding_queue_item(%s, %s, %s, false, 5, 'no')", (item, worker, token)
    )
    budget = await tenant_budget(app.database, priced.tenant_id)
    assert budget is not None
    assert budget.spent_usd == await spent(app) == budget.limit_usd
    await app.database.fetch("SELECT embedmill.sweep_budgets()")
    assert (await parked(app), await crossings(app)) == ([True, True], 1)
    assert [await paused(app, job.job_id) for job in jobs] == [("embedding_in_progress", "budget")] * 2


async def test_without_a_budget_a_call_costs_not_one_statement_more(
    app: App, priced: Pipeline, provider: RunningProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load, donors, quota; then in one transaction hold, is_recorded, ledger, items, completion, job and coverage (the
    COPY is not counted). How often an embedder looks for more to claim meanwhile is a matter of time."""
    statements: list[str] = []
    execute = psycopg.AsyncConnection.execute

    async def counted(self: Any, query: Any, *given: Any, **options: Any) -> Any:
        statements.append(query if isinstance(query, str) else query.as_string(None))
        return await execute(self, query, *given, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
    await add_document(app, priced, "doc", ["one", "two"])
    statements.clear()
    await Run(app, priced)()
    besides = ("set_config", "SET idle", "-- Claims")
    ours = [statement for statement in statements if not any(word in statement for word in besides)]
    assert len(ours) == STATEMENTS, ours


@pytest.mark.parametrize("price", [0, None])
async def test_where_a_call_costs_nothing_or_nobody_knows_what_a_budget_does_not_stop_it(
    app: App, pipeline: Pipeline, provider: RunningProvider, price: int | None
) -> None:
    await set_price(app, price)
    chosen = await pipeline_of_generation(app.database, pipeline.generation.id)
    await set_tenant_budget(app.database, chosen.tenant_id, 0)
    launched = await add_document(app, chosen, "doc", ["one", "two"])
    await Run(app, chosen)()
    assert await paused(app, launched.job_id) == ("completed", None)


async def test_a_call_that_came_back_after_its_worker_was_given_up_is_spent_all_the_same(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=300)
    await add_document(app, priced, "doc", ["one", "two"])
    await set_tenant_budget(app.database, priced.tenant_id, 1)
    run = Run(app, priced)
    await register_worker(app.database, worker_id=run.worker_id)
    working = asyncio.create_task(run())
    while provider.stats()["in_flight"] == 0:
        await asyncio.sleep(0.01)
    await app.database.fetch("SELECT embedmill.rescue_items(%s)", ([run.worker_id],))
    assert await open_reservations(app) == (0, 0)
    await working
    budget = await tenant_budget(app.database, priced.tenant_id)
    assert budget is not None
    assert budget.spent_usd == await spent(app) > 0
    assert budget.reserved_usd == 0


async def test_without_the_queue_a_budget_fails_the_job_with_its_reason_and_resuming_pays_the_rest(
    app: App, priced: Pipeline, provider: RunningProvider
) -> None:
    await set_value(app.database, "queue_enabled", "false", actor="test")
    launched = await add_document(app, priced, "doc", [f"text {n}" for n in range(30)])
    await set_tenant_budget(app.database, priced.tenant_id, 70 * TOKEN_USD)
    async with DirectEmbedder(app.database, priced, app.provider, worker_id=uuid4()) as direct:
        await direct.embed(launched.document_id, launched.job_id)
    ((status, message),) = await app.database.fetch(
        "SELECT status::text, error_message FROM embedmill.ingestion_jobs"
    )
    assert status == "failed"
    assert message.startswith("budget reached")
    assert 0 < len(await stored_vectors(app, priced)) < 30
    assert await spent(app) <= 70 * TOKEN_USD
    await remove_tenant_budget(app.database, priced.tenant_id)
    await app.database.fetch("SELECT embedmill.resume_job(%s)", (launched.job_id,))
    async with DirectEmbedder(app.database, priced, app.provider, worker_id=uuid4()) as direct:
        await direct.embed(launched.document_id, launched.job_id)
    assert await paused(app, launched.job_id) == ("completed", None)
    assert provider.stats()["most_paid_for_one_input"] == 1
