"""Alerts in the dashboard: on the first page until somebody has seen them, on their own until they are resolved."""

from __future__ import annotations

from playwright.async_api import Page, expect

from embedmill.access.keys import Role
from tests.dashboard.looks import assert_accessible, assert_fits
from tests.dashboard.visiting import key_of, log_in, token_in
from tests.support.serving import Serving

RAISED = """
WITH tenant AS (SELECT (SELECT id FROM embedmill.tenants WHERE slug = %(tenant)s) AS id),
sign AS (   -- without it the next look resolves the alert
    INSERT INTO embedmill.alert_signs
        (kind, tenant_id, subject, severity, message, numbers, began_at, seen_at, is_reported)
    SELECT 'stuck_queue', id, %(subject)s, 'critical', %(message)s, '{}', now(), now(), true FROM tenant)
INSERT INTO embedmill.alerts (kind, tenant_id, subject, severity, message, began_at, raised_at, seen_at)
SELECT 'stuck_queue', id, %(subject)s, 'critical', %(message)s, now(), now(), now() FROM tenant RETURNING id
"""


async def raise_alert(one: Serving, tenant: str | None, subject: str, message: str) -> int:
    given = {"tenant": tenant, "subject": subject, "message": message}
    ((alert_id,),) = await one.service.operator.fetch(RAISED, given)
    return int(alert_id)


async def test_an_alert_is_on_the_first_page_until_it_is_seen_and_on_its_own_until_resolved(
    idle_service: Serving, page: Page
) -> None:
    operator = idle_service.service.operator
    await page.goto(idle_service.address)
    await expect(page.get_by_text("Nothing is embedded yet.")).to_be_visible()
    message = "Nothing of <acme> is done. Run `embedmill status`."
    await raise_alert(idle_service, "default", "p", message)
    await expect(page.get_by_role("heading", name="Stuck queue: p")).to_be_visible()
    await expect(page.get_by_text("Nothing of <acme> is done.")).to_be_visible()
    await page.get_by_role("link", name="All alerts").click()
    await assert_accessible(page)
    await assert_fits(page)
    await page.get_by_label("I have seen it").select_option("4 hours")
    await page.get_by_role("button", name="Acknowledge").click()
    await expect(page.get_by_text("Seen by local user")).to_be_visible()
    await operator.fetch("DELETE FROM embedmill.alert_signs WHERE subject = 'p'")
    await operator.fetch("SELECT embedmill.watch_alerts()")
    await expect(page.get_by_text("Nothing needs attention.")).to_be_visible()
    await expect(page.get_by_role("heading", name="Resolved")).to_be_visible()
    await page.goto(idle_service.address)
    await expect(page.get_by_role("heading", name="Stuck queue")).to_have_count(0)


async def test_a_tenant_sees_its_own_alerts_and_not_the_fleets_or_anothers(idle_service: Serving) -> None:
    operator = idle_service.service.operator
    await operator.fetch("INSERT INTO embedmill.tenants (slug) VALUES ('acme')")
    ids = [
        await raise_alert(idle_service, tenant, subject, f"of {subject}")
        for tenant, subject in (("default", "own"), ("acme", "foreign"), (None, "fleet"))
    ]
    admin, _ = await key_of(idle_service, Role.ADMIN)
    all_seeing, _ = await key_of(idle_service, Role.OPERATOR)
    async with log_in(idle_service, admin) as client:
        html = (await client.get("/alerts")).text
        assert "of own" in html
        assert "of foreign" not in html
        assert "of fleet" not in html
        token = token_in(html)
        statuses = [
            (await client.post(f"/alerts/{each}/acknowledge", data={"form_token": token})).status_code
            for each in ids
        ]
        assert statuses == [303, 404, 404]
    async with log_in(idle_service, all_seeing) as client:
        html = (await client.get("/alerts")).text
        assert "of fleet" in html
        assert "of foreign" not in html, "another tenant is chosen first"
