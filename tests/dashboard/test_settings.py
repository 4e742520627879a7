"""Settings in a real browser: a value refused and accepted, keys and webhooks made and taken back, limits changed."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from embedmill.database.pipelines import Pipeline
from embedmill.queue.config import read_config
from tests.dashboard.conftest import Watch
from tests.dashboard.looks import MOST_BYTES, assert_accessible, assert_fits, transferred_bytes
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.serving import Serving, client_at


async def test_a_setting_is_refused_with_what_was_typed_then_accepted_and_put_back(
    idle_service: Serving, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    operator = idle_service.service.operator
    await page.goto(f"{idle_service.address}/settings")
    field = page.get_by_label("lease_seconds")
    await field.fill("12 days")
    await field.press("Enter")
    field = page.get_by_label("lease_seconds")
    await expect(field).to_have_value("12 days")
    await expect(field).to_be_focused()
    await expect(page.get_by_role("alert")).to_contain_text("lease_seconds")
    assert (await read_config(operator)).lease_seconds == 600
    await assert_accessible(page)
    await field.fill("120")
    await field.press("Enter")
    await expect(page.get_by_role("status").first).to_contain_text("lease_seconds is 120 now")
    assert (await read_config(operator)).lease_seconds == 120
    await page.get_by_role("button", name="Put lease_seconds back to its default").click()
    await expect(page.get_by_label("lease_seconds")).to_have_value("600")
    await page.get_by_role("link", name="Audit log").click()
    await expect(page.get_by_role("row").nth(1)).to_contain_text("lease_seconds")
    await expect(page.get_by_role("row").nth(1)).to_contain_text("local user")
    await assert_accessible(page)
    await assert_fits(page)


async def test_every_page_of_settings_is_usable_and_small(
    idle_service: Serving, pipeline: Pipeline, page: Page
) -> None:
    for path in (
        "/settings",
        "/settings/pipelines",
        "/settings/keys",
        "/settings/webhooks",
        "/settings/audit-log",
    ):
        assert await transferred_bytes(page, idle_service.address + path) < MOST_BYTES
        await assert_accessible(page)
        await assert_fits(page)


async def test_the_first_key_locks_the_door_and_logs_in(
    idle_service: Serving, page: Page, watch: Watch
) -> None:
    await page.goto(f"{idle_service.address}/settings/keys")
    await page.get_by_label("Name").fill("mine")
    await page.get_by_label("Role").select_option("operator")
    watch.excused.append("Failed to load resource: the server responded with a status of 401")
    await page.get_by_role("button", name="Make the key").click()
    secret = await page.locator("#secret-value").inner_text()
    assert re.fullmatch(r"em_[\w-]{43}", secret)
    await page.goto(idle_service.address)
    await expect(page).to_have_url(re.compile("/login"), timeout=10_000)
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_label("API key").fill(secret)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await page.goto(f"{idle_service.address}/settings/keys")
    assert secret not in await page.content()
    await page.get_by_role("button", name="Revoke").click()
    await page.get_by_role("button", name="Leave it").click()
    await page.get_by_role("button", name="Revoke").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page).to_have_url(re.compile("/login"))


async def test_nobody_makes_or_revokes_a_key_above_his_own(idle_service: Serving) -> None:
    operator, operator_id = await key_of(idle_service, Role.OPERATOR)
    admin, _ = await key_of(idle_service, Role.ADMIN)
    async with log_in(idle_service, admin) as client:
        token = token_in((await client.get("/settings/keys")).text)
        made = {"form_token": token, "name": "x", "role": "operator"}
        answer = await client.post("/settings/keys", data=made)
        assert answer.status_code == 422
        assert "by one of that role" in answer.text
        assert (
            await client.post(f"/settings/keys/{operator_id}/revoke", data={"form_token": token})
        ).status_code == 403
        assert (await client.post("/settings/keys", data={**made, "role": "king"})).status_code == 422
        assert (
            await client.post("/settings/keys", data={**made, "role": "reader", "days": "-1"})
        ).status_code == 422
        assert (
            await client.post("/settings/keys", data={**made, "role": "reader", "name": "\x00"})
        ).status_code == 422
    async with log_in(idle_service, operator) as client:
        assert (await client.get("/")).status_code == 200
    api = client_at(f"{idle_service.address}/api/v1", {"Authorization": f"Bearer {admin}"})
    async with api:
        refused = await api.post("/keys", json={"name": "x", "role": "operator"})
        assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
        assert (await api.delete(f"/keys/{operator_id}")).status_code == 403


async def test_a_reader_sees_and_changes_nothing_and_an_admin_not_what_is_everybodys(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    reader, _ = await key_of(idle_service, Role.READER)
    admin, _ = await key_of(idle_service, Role.ADMIN)
    async with log_in(idle_service, reader) as client:
        page = await client.get("/settings")
        assert page.status_code == 200
        assert "Save" not in page.text
        token = token_in(page.text)
        assert (await client.get("/settings/keys")).status_code == 403
        for path in ("/settings", "/settings/webhooks", f"/settings/pipelines/{pipeline.name}/pause"):
            sent = {
                "form_token": token,
                "key": "queue_enabled",
                "value": "false",
                "url": "https://example.com",
            }
            assert (await client.post(path, data=sent)).status_code == 403, path
    async with log_in(idle_service, admin) as client:
        token = token_in((await client.get("/settings")).text)
        sent = {"form_token": token, "key": "queue_enabled", "value": "false"}
        assert (await client.post("/settings", data=sent)).status_code == 403
        limits = {"form_token": token, "quota_key": pipeline.quota_key, "calls": "1"}
        assert (await client.post("/settings/pipelines/quotas", data=limits)).status_code == 403
        assert (
            await client.post(f"/settings/pipelines/{pipeline.name}/pause", data={"form_token": token})
        ).status_code == 303
    assert (await read_config(idle_service.service.operator)).queue_enabled


async def test_a_pipeline_is_paused_resumed_and_limited(
    idle_service: Serving, pipeline: Pipeline, page: Page, watch: Watch
) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    await page.goto(f"{idle_service.address}/settings/pipelines")
    card = page.locator(f"#pipeline-{pipeline.name}")
    await card.get_by_role("button", name="Pause").click()
    await expect(card.get_by_text("paused")).to_be_visible()
    await card.get_by_role("button", name="Resume").click()
    await expect(card.get_by_text("active")).to_be_visible()
    limits = page.get_by_role("form", name=f"Limits of {pipeline.quota_key}")
    await limits.get_by_label("Calls a minute").fill("many")
    await limits.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert")).to_contain_text("a number from 1")
    await expect(limits.get_by_label("Calls a minute")).to_have_value("many")
    await limits.get_by_label("Calls a minute").fill("60")
    await limits.get_by_label("Tokens a minute").fill("1,000,000")
    await limits.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("hold from now on")
    await expect(limits.get_by_label("Tokens a minute")).to_have_value("1000000")


async def test_a_webhook_from_its_making_to_its_end(idle_service: Serving, page: Page, watch: Watch) -> None:
    watch.excused.append("Failed to load resource: the server responded with a status of 422")
    await page.goto(f"{idle_service.address}/settings/webhooks")
    await page.get_by_label("Address").fill("http://10.0.0.1/hook")
    await page.get_by_role("button", name="Add the webhook").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(page.get_by_label("Address")).to_have_value("http://10.0.0.1/hook")
    made = await idle_service.service.operator.fetch(
        "INSERT INTO embedmill.webhooks (tenant_id, url, event_types, description) "
        "SELECT id, 'http://127.0.0.1:9/hook', '{job.failed}', 'the <chat>' FROM embedmill.tenants RETURNING id"
    )
    await page.reload()
    await page.get_by_role("link", name="http://127.0.0.1:9/hook").click()
    await expect(page).to_have_url(re.compile(str(made[0][0])))
    await page.get_by_role("button", name="Send a test").click()
    await expect(page.get_by_role("alert")).to_contain_text("The test call failed")
    await expect(page.get_by_role("row").nth(1)).to_contain_text("test")
    await page.get_by_role("button", name="New secret").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.locator("#secret-value")).to_have_text(re.compile("^whsec_"))
    await assert_accessible(page)
    await page.get_by_role("button", name="Switch off").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_role("button", name="Switch on")).to_be_visible()
    await page.get_by_label("job.completed").check()
    await page.get_by_label("What it is for").fill("the other")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("job.completed, job.failed")).to_be_visible()
    await page.get_by_label("Address").fill("http://192.168.0.1/")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("button", name="Go on").click()
    await expect(page.get_by_text("No webhook yet.")).to_be_visible()


async def test_another_tenants_webhook_is_not_there(idle_service: Serving) -> None:
    operator = idle_service.service.operator
    ((tenant_id,),) = await operator.fetch(
        "INSERT INTO embedmill.tenants (slug) VALUES ('acme') RETURNING id"
    )
    ((webhook_id,),) = await operator.fetch(
        "INSERT INTO embedmill.webhooks (tenant_id, url) VALUES (%s, 'https://example.com/') RETURNING id",
        (tenant_id,),
    )
    admin, _ = await key_of(idle_service, Role.ADMIN)
    async with log_in(idle_service, admin) as client:
        assert (await client.get(f"/settings/webhooks/{webhook_id}")).status_code == 404
        token = token_in((await client.get("/settings")).text)
        for act in ("delete", "secret", "test", "redeliver"):
            answer = await client.post(f"/settings/webhooks/{webhook_id}/{act}", data={"form_token": token})
            assert answer.status_code == 404, act
        assert (await client.get("/settings/webhooks?after=zzz")).status_code == 200
    assert len(await operator.fetch("SELECT id FROM embedmill.webhooks")) == 1
