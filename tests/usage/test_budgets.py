"""Budgets as people set them, and what the database's functions do with them, whoever calls."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from embedmill.app import App
from embedmill.database.pipelines import Pipeline
from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError, NotFoundError
from embedmill.queue.administration import read_audit_log
from embedmill.usage.budgets import (
    job_budget,
    remove_job_budget,
    remove_tenant_budget,
    set_job_budget,
    set_tenant_budget,
    tenant_budget,
)
from tests.support.queue_rows import register_worker
from tests.support.work import add_document, set_price, unanswered_pipeline


@pytest.fixture
async def pipeline(app: App) -> Pipeline:
    """A dollar for a million tokens; no provider answers."""
    pipeline = await unanswered_pipeline(app)
    await set_price(app, 1)
    return pipeline


async def spend(app: App, pipeline: Pipeline, usd: str, *, days_ago: int = 0) -> None:
    """A row of the ledger, as any call writes it."""
    await app.database.fetch(
        "INSERT INTO embedmill.llm_usage_log (tenant_id, call_id, usage_type, action, provider, model, inputs, "
        "    input_tokens, latency_ms, cost_usd, created_at) "
        "VALUES (%s, gen_random_uuid(), 'query', 'embed', 'test', 'test', 1, 1, 1, %s, now() - %s * interval '1 day')",
        (pipeline.tenant_id, usd, days_ago),
    )


async def reserve(
    app: App, tenant_id: int, usd: str, *, worker: UUID | None = None, **given: Any
) -> list[str]:
    """The verdicts; [] where it was reserved."""
    rows = await app.database.fetch(
        "SELECT verdict FROM embedmill.reserve_budget(%s, %s, %s, %s, %s::uuid[], %s::numeric[], "
        "                                             now() + %s * interval '1 day')",
        (
            tenant_id,
            worker or uuid4(),
            given.get("call") or uuid4(),
            usd,
            given.get("jobs", []),
            given.get("amounts", []),
            given.get("days", 0),
        ),
    )
    return [row[0] for row in rows]


async def settle(app: App, tenant_id: int, call: UUID, usd: str) -> None:
    await app.database.fetch("SELECT embedmill.settle_budget(%s, %s, %s, '{}', '{}')", (tenant_id, call, usd))


async def test_what_was_spent_in_the_period_counts_from_the_start(app: App, pipeline: Pipeline) -> None:
    await spend(app, pipeline, "3")
    await spend(app, pipeline, "4", days_ago=40)
    tenant = pipeline.tenant_id
    assert await tenant_budget(app.database, tenant) is None
    month = await set_tenant_budget(app.database, tenant, "10.50")
    assert (month.period, month.limit_usd, month.spent_usd) == ("month", Decimal("10.50"), 3)
    assert month.left_usd == Decimal("7.50")
    total = await set_tenant_budget(app.database, tenant, 10, period="total")
    assert (total.period, total.spent_usd) == ("total", 7)
    assert await tenant_budget(app.database, tenant) == total
    assert await remove_tenant_budget(app.database, tenant)
    assert not await remove_tenant_budget(app.database, tenant)
    assert await tenant_budget(app.database, tenant) is None


async def test_a_tenth_of_a_dollar_is_a_tenth_and_nonsense_is_refused(app: App, pipeline: Pipeline) -> None:
    tenant = pipeline.tenant_id
    assert (await set_tenant_budget(app.database, tenant, 0.1)).limit_usd == Decimal("0.1")
    assert (await set_tenant_budget(app.database, tenant, 0)).limit_usd == 0
    for wrong in (-1, "-0.01", "much", float("nan"), float("inf"), ""):
        with pytest.raises(ConfigurationError, match="US dollars"):
            await set_tenant_budget(app.database, tenant, wrong)
    with pytest.raises(ConfigurationError, match="week"):
        await set_tenant_budget(app.database, tenant, 1, period="week")  # type: ignore[arg-type]


async def test_a_job_whose_price_is_unknown_can_have_no_budget_and_its_tenant_is_told(
    app: App, pipeline: Pipeline
) -> None:
    launched = await add_document(app, pipeline, "doc", ["one"])
    await set_price(app, None)
    with pytest.raises(ConfigurationError, match="price of pipeline standin is not known"):
        await set_job_budget(app.database, pipeline.tenant_id, launched.job_id, 1)
    budget = await set_tenant_budget(app.database, pipeline.tenant_id, 1)
    assert "standin" in budget.uncounted_pipelines
    with pytest.raises(NotFoundError):
        await set_job_budget(app.database, pipeline.tenant_id, uuid4(), 1)


async def test_a_jobs_budget_counts_what_it_has_cost_and_goes_when_it_is_set_to_none(
    app: App, pipeline: Pipeline
) -> None:
    launched = await add_document(app, pipeline, "doc", ["one"])
    await app.database.fetch("UPDATE embedmill.ingestion_jobs SET cost_usd = 0.25")
    budget = await set_job_budget(app.database, pipeline.tenant_id, launched.job_id, 1)
    assert budget == await job_budget(app.database, pipeline.tenant_id, launched.job_id)
    assert budget is not None
    assert (budget.spent_usd, budget.uncounted_pipelines) == (Decimal("0.25"), [])
    assert await set_job_budget(app.database, pipeline.tenant_id, launched.job_id, None) is None
    assert await job_budget(app.database, pipeline.tenant_id, launched.job_id) is None
    assert not await remove_job_budget(app.database, pipeline.tenant_id, launched.job_id)


async def test_setting_and_removing_are_in_the_audit_log_with_who_did_it(
    app: App, pipeline: Pipeline
) -> None:
    await set_tenant_budget(app.database, pipeline.tenant_id, 5, actor="ann")
    await set_tenant_budget(app.database, pipeline.tenant_id, 7, actor="bob")
    await remove_tenant_budget(app.database, pipeline.tenant_id, actor="cyd")
    records = await read_audit_log(app.database, pipeline.tenant_id, limit=3)
    assert [(each.actor, each.action) for each in records] == [
        ("cyd", "budget.remove"),
        ("bob", "budget.set"),
        ("ann", "budget.set"),
    ]
    assert records[1].old_value == {"period": "month", "limit_usd": 5}


async def test_reservations_at_once_never_pass_the_limit(app: App, pipeline: Pipeline) -> None:
    await set_tenant_budget(app.database, pipeline.tenant_id, 1)
    verdicts = await asyncio.gather(*(reserve(app, pipeline.tenant_id, "0.15") for _ in range(30)))
    assert verdicts.count([]) == 6
    assert verdicts.count(["waits"]) == 24
    budget = await tenant_budget(app.database, pipeline.tenant_id)
    assert budget is not None
    assert budget.reserved_usd == Decimal("0.90")


async def test_calls_that_end_while_others_begin_are_all_counted(app: App, pipeline: Pipeline) -> None:
    tenant = pipeline.tenant_id
    await set_tenant_budget(app.database, tenant, 10)

    async def work() -> int:
        made = 0
        for _ in range(15):
            call = uuid4()
            if await reserve(app, tenant, "0.2", call=call) == []:
                await settle(app, tenant, call, "0.1")
                made += 1
        return made

    made = sum(await asyncio.gather(*(work() for _ in range(8))))
    budget = await tenant_budget(app.database, tenant)
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (made * Decimal("0.1"), 0)
    assert budget.spent_usd <= 10
    assert made > 90


async def test_a_call_that_asks_twice_has_one_reservation_and_settling_frees_it(
    app: App, pipeline: Pipeline
) -> None:
    tenant, call = pipeline.tenant_id, uuid4()
    await set_tenant_budget(app.database, tenant, 1)
    assert await reserve(app, tenant, "0.9", call=call) == []
    assert await reserve(app, tenant, "0.9", call=call) == []
    assert await reserve(app, tenant, "0.2") == ["waits"]
    await settle(app, tenant, call, "0.5")
    budget = await tenant_budget(app.database, tenant)
    assert budget is not None
    assert (budget.spent_usd, budget.reserved_usd) == (Decimal("0.5"), 0)
    assert await reserve(app, tenant, "0.6") == ["reached"]
    assert await reserve(app, tenant, "0.5") == []


async def test_all_or_nothing_is_reserved_and_every_budget_without_room_is_named(
    app: App, pipeline: Pipeline
) -> None:
    tight, loose = [(await add_document(app, pipeline, n, [n])).job_id for n in ("tight", "loose")]
    await set_job_budget(app.database, pipeline.tenant_id, tight, "0.1")
    await set_job_budget(app.database, pipeline.tenant_id, loose, 9)
    both = {"jobs": [tight, loose], "amounts": [Decimal("0.2"), Decimal("0.3")]}
    assert await reserve(app, pipeline.tenant_id, "0.5", **both) == ["reached"]
    await set_tenant_budget(app.database, pipeline.tenant_id, "0.4")
    assert await reserve(app, pipeline.tenant_id, "0.5", **both) == ["reached", "reached"]
    for budget in (
        await job_budget(app.database, pipeline.tenant_id, loose),
        await tenant_budget(app.database, pipeline.tenant_id),
    ):
        assert budget is not None
        assert budget.reserved_usd == 0


async def test_a_new_month_begins_with_nothing_spent_and_what_is_under_way_still_reserved(
    app: App, pipeline: Pipeline
) -> None:
    tenant, call = pipeline.tenant_id, uuid4()
    await set_tenant_budget(app.database, tenant, 1)
    await reserve(app, tenant, "0.4", call=call)
    await settle(app, tenant, call, "0.9")
    assert await reserve(app, tenant, "0.2") == ["reached"]
    assert await reserve(app, tenant, "0.2", days=32) == []
    assert await reserve(app, tenant, "0.9", days=32) == ["waits"]


async def test_reservations_of_the_living_are_left_alone(app: App, pipeline: Pipeline) -> None:
    tenant = pipeline.tenant_id
    await set_tenant_budget(app.database, tenant, 1)
    living, dead, unknown = await register_worker(app.database), await register_worker(app.database), uuid4()
    for worker in (living, dead, unknown):
        assert await reserve(app, tenant, "0.1", worker=worker) == []
    await app.database.fetch(
        "UPDATE embedmill.embedding_queue_workers SET status = 'error' WHERE worker_id = %s", (dead,)
    )
    assert await app.database.fetch("SELECT embedmill.release_dead_reservations()") == [(1,)]
    await app.database.fetch(
        "UPDATE embedmill.budget_reservations SET created_at = now() - interval '1 hour' WHERE worker_id <> %s",
        (dead,),
    )
    assert await app.database.fetch("SELECT embedmill.release_dead_reservations()") == [(1,)]
    budget = await tenant_budget(app.database, tenant)
    assert budget is not None
    assert budget.reserved_usd == Decimal("0.1")


async def test_parking_goes_in_steps_and_what_another_budget_stops_stays_parked(
    app: App, pipeline: Pipeline
) -> None:
    jobs = [(await add_document(app, pipeline, f"doc {n}", [f"text {n}"])).job_id for n in range(5)]
    for job_id, limit in ((None, 0), (jobs[0], 0)):
        if job_id is None:
            await set_tenant_budget(app.database, pipeline.tenant_id, limit)
        else:
            await set_job_budget(app.database, pipeline.tenant_id, job_id, limit)
    ((of_tenant,),) = await app.database.fetch("SELECT id FROM embedmill.budgets WHERE job_id IS NULL")
    ((of_job,),) = await app.database.fetch("SELECT id FROM embedmill.budgets WHERE job_id IS NOT NULL")
    park = "SELECT embedmill.park_budget(%s, 0.1, '{}', %s)"
    steps = [(await app.database.fetch(park, (of_tenant, 2)))[0][0] for _ in range(4)]
    assert steps == [2, 2, 1, 0]
    await app.database.fetch(park, (of_job, 2))
    events = await app.database.fetch(
        "SELECT job_id FROM embedmill.events WHERE type = 'budget.reached' ORDER BY id"
    )
    assert events == [(None,), (jobs[0],)]
    await remove_tenant_budget(app.database, pipeline.tenant_id)
    waiting = "SELECT job_id FROM embedmill.embedding_queue WHERE available_at = 'infinity'"
    assert await app.database.fetch(waiting) == [(jobs[0],)]
    assert await app.database.fetch(
        "SELECT id FROM embedmill.ingestion_jobs WHERE paused_reason = 'budget'"
    ) == [(jobs[0],)]
    # A raise that comes first makes the parking void.
    await set_job_budget(app.database, pipeline.tenant_id, jobs[0], 1)
    assert await app.database.fetch(park, (of_job, 2)) == [(0,)]
    assert await app.database.fetch(waiting) == []


async def test_the_service_works_with_its_own_tenants_budgets_and_jobs_only(
    app: App, pipeline: Pipeline
) -> None:
    launched = await add_document(app, pipeline, "doc", ["one"])
    async with Database(app.database.url, role="embedmill_service") as service:
        ours, others = (service.for_tenant(n, actor="key") for n in (pipeline.tenant_id, 999_999))
        assert (await set_tenant_budget(ours, pipeline.tenant_id, 3)).limit_usd == 3
        assert await set_job_budget(ours, pipeline.tenant_id, launched.job_id, 2) is not None
        assert await tenant_budget(others, pipeline.tenant_id) is None
        assert not await remove_tenant_budget(others, pipeline.tenant_id)
        with pytest.raises(NotFoundError):
            await set_job_budget(others, pipeline.tenant_id, launched.job_id, 9)
        cancel = "SELECT embedmill.cancel_job(%s, 'enough')::text"
        assert await others.fetch(cancel, (launched.job_id,)) == [(None,)]
        assert await ours.fetch(cancel, (launched.job_id,)) == [("cancelled",)]
        resumed = await ours.fetch("SELECT status::text FROM embedmill.resume_job(%s)", (launched.job_id,))
        assert resumed == [("embedding_in_progress",)]
        assert await remove_tenant_budget(ours, pipeline.tenant_id)
