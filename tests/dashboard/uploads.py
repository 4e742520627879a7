"""Uploads as tests of the pages of documents need them: a pipeline with a price, files that are dropped, files sent
without a script. Owns making them; must not assert what a page is for."""

from __future__ import annotations

import base64
from decimal import Decimal
from pathlib import Path

import httpx2
from playwright.async_api import Page

from embedmill.core.documents import ChunkPlan
from embedmill.database.pipelines import Pipeline
from tests.support.provider import RunningProvider
from tests.support.serving import Serving
from tests.support.work import DIMENSIONS, stand_in_pipeline

WORKED_MS = 60_000
"""How long a page may wait for what a worker does: far longer than it takes on an idle machine."""
EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
_DROP = """
([name, content]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
  const event = { dataTransfer: carried, bubbles: true, cancelable: true };
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("h1").dispatchEvent(new DragEvent(kind, event));
}
"""


async def priced_pipeline(service: Serving, provider: RunningProvider) -> Pipeline:
    """`standin` at a dollar for a million tokens, 25 inputs a call, small chunks."""
    return await stand_in_pipeline(
        service.app,
        provider.base_url,
        dimensions=DIMENSIONS,
        max_inputs_per_call=25,
        price_per_million_tokens=1,
        chunk_plan=ChunkPlan(64, 8),
    )


async def drop(page: Page, name: str, content: bytes) -> None:
    """As a person lets a file go over the heading of the page."""
    await page.evaluate(_DROP, [name, base64.b64encode(content).decode()])


async def send_form(
    client: httpx2.AsyncClient, token: str, files: list[tuple[str, bytes]], **fields: str
) -> httpx2.Response:
    """The form of uploads, as a browser without a script sends it."""
    parts = [("file", (name, content)) for name, content in files]
    return await client.post("/documents", data={"form_token": token, **fields}, files=parts)


async def insert_jobs(service: Serving, pipeline: Pipeline, number: int, status: str = "completed") -> None:
    """Jobs of documents `doc 1` and on, the first the newest, that nobody works on."""
    await service.service.operator.fetch(
        "WITH documents AS (INSERT INTO embedmill.knowledge_documents"
        " (tenant_id, pipeline_id, source_type, source_id, name)"
        " SELECT %(tenant)s, %(pipeline)s, 'test', %(status)s::text || n, 'doc ' || n"
        " FROM generate_series(1, %(number)s) n"
        " RETURNING id, name)"
        " INSERT INTO embedmill.ingestion_jobs (tenant_id, pipeline_id, document_id, status, total_chunks,"
        " embedded_chunks, cost_usd, created_at, launched_at, completed_at)"
        " SELECT %(tenant)s, %(pipeline)s, id, %(status)s::embedmill.job_status, 10, 10, %(cost)s,"
        " now() - interval '1 hour' - substr(name, 5)::integer * interval '1 second', now(), now() FROM documents",
        {
            "tenant": pipeline.tenant_id,
            "pipeline": pipeline.id,
            "number": number,
            "status": status,
            "cost": Decimal("0.01"),
        },
    )
