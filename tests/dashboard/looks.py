"""What every page must be: found usable by axe, no wider than its window, small. Owns the checks, not the pages."""

from __future__ import annotations

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, Request

MOST_BYTES = 150_000


async def assert_accessible(page: Page) -> None:
    """No serious or critical finding of axe, in light and in dark."""
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found = await Axe().run(page)
        serious = [
            f"{each['id']} ({each['impact']}): {each['help']}: {node['html'][:200]}"
            for each in found.response["violations"]
            if each["impact"] in {"serious", "critical"}
            for node in each["nodes"]
        ]
        assert serious == [], f"{page.url} in {scheme}"


async def assert_fits(page: Page) -> None:
    """At 360 and 1,440 pixels nothing is wider than the window."""
    for width in (360, 1440):
        await page.set_viewport_size({"width": width, "height": 800})
        excess = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert excess <= 0, f"{page.url} is {excess} pixels wider than {width}"


async def transferred_bytes(page: Page, address: str) -> int:
    """All that a first visit to a page moves over the wire, compressed as it is; its live stream left out."""
    finished: list[Request] = []

    def note(request: Request) -> None:
        finished.append(request)

    page.on("requestfinished", note)
    await page.goto(address)
    await page.wait_for_load_state("load")
    total = 0
    for request in finished:
        size = await request.sizes()
        total += size["responseBodySize"] + size["responseHeadersSize"]
    return total
