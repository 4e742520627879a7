"""The page of usage in a real browser and over HTTP: what calls cost, what is unknown, budgets set and refused, what
each role may see and do."""

from __future__ import annotations

from decimal import Decimal

import pytest
from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.database.pipelines import Pipeline
from embedmill.queue.sharing import create_tenant
from embedmill.usage.budgets import job_budget, set_job_budget, set_tenant_budget, tenant_budget
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.usage_rows import make_calls
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.serving import Serving, client_at
from tests.support.work import add_document, set_price


async def figure(page: Page, name: str) -> str:
    return await page.locator(".figure", has=page.get_by_text(name, exact=True)).inner_text()


async def test_real_calls_come_onto_the_page_while_one_looks(
    service: Serving, pipeline: Pipeline, page: Page
) -> None:
    await set_price(service.app, 20)
    await page.goto(f"{service.address}/usage")
    await expect(page.get_by_text("No call to a provider in this time.")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)
    await page.evaluate("window.isTheSamePage = true")
    job = await service.upload(
        "a.txt", b"The mill grinds wheat.\n\n" * 40, pipeline=pipeline.name, autoLaunch="true"
    )
    await service.until(job["jobId"])
    await expect(page.get_by_role("row", name="internal ingestion")).to_be_visible()
    assert await page.evaluate("window.isTheSamePage")
    ((calls, tokens, cost),) = await service.service.operator.fetch(
        "SELECT count(*), sum(total_tokens), sum(cost_usd) FROM embedmill.llm_usage_log"
    )
    row = page.locator("#pipeline-1")
    await expect(row).to_contain_text(f"{tokens:,}")
    await expect(row).to_contain_text(f"${cost:.4f}")
    assert f"{calls}" in await figure(page, "Calls")
    assert "average of 1 upload" in await figure(page, "A document")
    assert await transferred_bytes(page, f"{service.address}/usage?period=90d") < MOST_BYTES


async def test_what_is_unknown_is_told_as_unknown_and_failed_calls_that_cost_are_told(
    idle_service: Serving, pipeline: Pipeline, page: Page
) -> None:
    owner = idle_service.service.operator
    await make_calls(owner, pipeline.tenant_id, 30, pipeline_id=pipeline.id, seconds=1, unknown_each=7)
    await page.goto(f"{idle_service.address}/usage?period=7d")
    assert "4 calls without a known price" in await figure(page, "Cost")
    assert "3 of them charged" in await figure(page, "Failed calls")
    assert "some price is unknown" in await figure(page, "1,000 chunks")
    await expect(page.get_by_text("4 of 30 calls were made by pipelines")).to_be_visible()
    await expect(page.locator("#type-1")).to_contain_text("+ unknown of")
    await page.get_by_role("link", name="Users").click()
    await expect(page.locator("#user-1")).to_contain_text("(none named)")
    await expect(page.locator("#user-2")).to_contain_text("ann")
    await page.get_by_role("link", name="Jobs").click()
    await expect(page.get_by_text("No call of this time served one job alone.")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)


async def test_a_time_that_cannot_be_is_refused_at_its_field_and_one_in_the_readers_zone_shown(
    idle_service: Serving, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    base = f"{idle_service.address}/usage"
    for query, field, said in (
        ("period=days&from=yesterday", "from", "A day such as"),
        ("period=days&from=2026-05-02&to=2026-05-01", "to", "lies before"),
        ("period=days&from=2020-01-01&to=2026-05-01", "from", "At most"),
        ("zone=Nowhere/Atall", "zone", "no such time zone"),
        ("zone=../../etc/passwd", "zone", "no such time zone"),
        ("period=century", "period", "no such period"),
    ):
        response = await page.goto(f"{base}?{query}")
        assert response is not None
        assert response.status == 422
        await expect(page.locator(f"#wrong-{field}")).to_contain_text(said)
        await expect(page.locator(f"#{field}")).to_have_attribute("aria-invalid", "true")
    await assert_accessible(page)
    await page.goto(f"{base}?period=days&from=2026-05-01&to=2026-05-02&zone=Asia/Kathmandu")
    await expect(
        page.get_by_role("heading", name="2026-05-01 to 2026-05-02, days of Asia/Kathmandu")
    ).to_be_visible()
    await expect(page.get_by_label("From")).to_have_value("2026-05-01")


async def test_a_budget_is_refused_at_the_field_set_changed_and_removed(
    idle_service: Serving, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    database, tenant = idle_service.service.operator, pipeline.tenant_id
    await page.goto(f"{idle_service.address}/usage")
    for wrong in ("-1", "much", "nan", "1e400", "12,50", "\uff11"):
        await page.get_by_label("US dollars").fill(wrong)
        await page.get_by_role("button", name="Set", exact=True).click()
        field = page.get_by_label("US dollars")
        if wrong == "\uff11":  # a digit all the same
            await expect(page.get_by_role("status").first).to_contain_text("$1.00")
            break
        await expect(field).to_have_value(wrong)
        await expect(field).to_have_attribute("aria-invalid", "true")
        await expect(page.locator("#wrong-limit")).to_be_visible()
        assert await tenant_budget(database, tenant) is None
        await assert_accessible(page)
    await page.get_by_label("US dollars").fill("$1,000.50")
    await page.get_by_label("For", exact=True).select_option("total")
    await page.get_by_role("button", name="Change", exact=True).click()
    await expect(page.get_by_role("status").first).to_contain_text("$1,000.50 in all now")
    budget = await tenant_budget(database, tenant)
    assert budget is not None
    assert (budget.limit_usd, budget.period) == (Decimal("1000.50"), "total")
    await page.get_by_role("button", name="Remove the budget").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_text("No budget: nothing limits")).to_be_visible()
    assert await tenant_budget(database, tenant) is None


async def test_jobs_that_a_budget_holds_are_shown_and_raised(
    idle_service: Serving, pipeline: Pipeline, page: Page
) -> None:
    database, tenant = idle_service.service.operator, pipeline.tenant_id
    await set_price(idle_service.app, 20)
    held = await add_document(idle_service.app, pipeline, "held.txt", ["one two three"])
    await set_job_budget(database, tenant, held.job_id, 0)
    await set_tenant_budget(database, tenant, 0)
    await database.fetch("SELECT embedmill.sweep_budgets()")
    await page.goto(f"{idle_service.address}/usage")
    row = page.locator(f"#held-{held.job_id}")
    await expect(row).to_contain_text("its own budget: $0.00 of $0.00 spent")
    await expect(page.get_by_text("What would cost something waits")).to_be_visible()
    await assert_accessible(page)
    await assert_fits(page)
    await row.get_by_role("textbox").fill("lots")
    await row.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert")).to_contain_text("a budget is an amount")
    await row.get_by_role("textbox").fill("5")
    await row.get_by_role("button", name="Save").click()
    await expect(row).to_contain_text("the tenant's budget")
    raised = await job_budget(database, tenant, held.job_id)
    assert raised is not None
    assert raised.limit_usd == 5


async def test_a_reader_sees_and_may_not_act_and_all_tenants_are_the_operators(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    owner = idle_service.service.operator
    other = await create_tenant(owner, "acme", weight=1, max_processing_items=None, actor="test")
    assert other
    ((acme,),) = await owner.fetch("SELECT id FROM embedmill.tenants WHERE slug = 'acme'")
    await make_calls(owner, pipeline.tenant_id, 5, pipeline_id=pipeline.id, seconds=1)
    await make_calls(owner, acme, 7, seconds=1, user="bob-of-acme")
    await make_calls(owner, acme, 3, seconds=1)
    secrets = {role: (await key_of(idle_service, role))[0] for role in Role}
    for role, secret in secrets.items():
        async with log_in(idle_service, secret) as client:
            page = (await client.get("/usage?by=user")).text
            assert '<td data-label="Calls" class="number">5</td>' in page
            assert "bob-of-acme" not in page
            assert ("Set a budget" in page) == role.allows(Role.ADMIN)
            token = token_in(page)
            act = {"form_token": token, "limit_usd": "1"}
            assert (await client.post("/usage", data={**act, "limit_usd": "x"})).status_code == (
                422 if role.allows(Role.ADMIN) else 403
            )
            assert (await client.post("/usage", data={"limit_usd": "1"})).status_code == 403, "no token"
            everybody = await client.get("/usage?tenant=all")
            exported = await client.get("/usage.csv?tenant=all")
            assert everybody.status_code == exported.status_code == (200 if role is Role.OPERATOR else 403)
            assert ("acme" in everybody.text) == (role is Role.OPERATOR)
            assert "bob-of-acme" not in (await client.get("/usage.csv?kind=calls")).text
    async with client_at(idle_service.address) as stranger:
        for path in ("/usage", "/usage.csv"):
            assert (await stranger.get(path)).headers["location"].startswith("/login")


@pytest.mark.parametrize("query", ["", "?period=30d", "?period=90d&zone=Asia/Kolkata", "?tenant=all"])
async def test_the_page_reads_sums_and_no_single_calls(
    idle_service: Serving, pipeline: Pipeline, query: str
) -> None:
    owner = idle_service.service.operator
    await make_calls(owner, pipeline.tenant_id, 20_000, pipeline_id=pipeline.id, seconds=300)
    await owner.fetch("SELECT embedmill.fold_usage()")

    async def reads() -> tuple[int, ...]:
        await owner.fetch("SELECT pg_stat_force_next_flush()")
        rows = await owner.fetch(
            "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables "
            "WHERE relname IN ('llm_usage_log', 'usage_of_users') ORDER BY relname"
        )
        return tuple(row[0] for row in rows)

    async with client_at(idle_service.address) as client:
        before = await reads()
        assert (await client.get(f"/usage{query}")).status_code == 200
        async with idle_service.service.database.connection() as connection:
            await connection.execute("SELECT pg_stat_force_next_flush()")
        assert await reads() == before


async def test_too_many_calls_are_not_summed_one_by_one_for_a_page(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    await make_calls(idle_service.service.operator, pipeline.tenant_id, 3, seconds=1)
    await idle_service.service.operator.fetch("UPDATE embedmill.usage_unfolded SET calls = calls + 30000")
    async with client_at(idle_service.address) as client:
        answer = await client.get("/usage?period=7d&by=user")
    assert "too many to be summed one by one for a page (30,000 at most)" in answer.text
    assert "(none named)" not in answer.text
