"""Every page of the dashboard with the addresses by which people come to it: lists with their filters, single things by
real ids. Owns the list, which must name each route that answers GET; must not assert what a page shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fastapi import APIRouter
from fastapi.routing import APIRoute

from embedmill.dashboard import application
from embedmill.database.pool import Database

_NEXT = re.compile(r'rel="next" href="([^"]+)"')
_IDS = {
    "job": "SELECT id FROM embedmill.ingestion_jobs WHERE tenant_id = %(t)s AND status = 'completed' LIMIT 1",
    "preview": "SELECT id FROM embedmill.ingestion_jobs WHERE tenant_id = %(t)s "
    " ORDER BY status = 'chunk_preview_ready' DESC LIMIT 1",
    "batch": "SELECT batch_id FROM embedmill.ingestion_jobs WHERE tenant_id = %(t)s AND batch_id IS NOT NULL LIMIT 1",
    "table": "SELECT id FROM embedmill.record_sources WHERE tenant_id = %(t)s AND kind = 'table' LIMIT 1",
    "feed": "SELECT id FROM embedmill.record_sources WHERE tenant_id = %(t)s AND kind = 'shards' LIMIT 1",
    "source_name": "SELECT name FROM embedmill.record_sources WHERE tenant_id = %(t)s LIMIT 1",
    "audit": "SELECT id FROM embedmill.audits WHERE tenant_id = %(t)s LIMIT 1",
    "letter": "SELECT id FROM embedmill.dead_letters WHERE tenant_id = %(t)s AND resolved_at IS NULL LIMIT 1",
    "item": "SELECT id FROM embedmill.embedding_queue WHERE tenant_id = %(t)s AND status = 'pending' LIMIT 1",
    "ended_item": "SELECT id FROM embedmill.embedding_queue_history WHERE tenant_id = %(t)s LIMIT 1",
    "queue_batch": "SELECT batch_id FROM embedmill.embedding_queue "
    " WHERE tenant_id = %(t)s AND batch_id IS NOT NULL LIMIT 1",
    "source_id": "SELECT source_id FROM embedmill.embedding_queue "
    " WHERE tenant_id = %(t)s AND source_type = 'upload' LIMIT 1",
    "document": "SELECT id FROM embedmill.knowledge_documents WHERE tenant_id = %(t)s LIMIT 1",
    "webhook": "SELECT id FROM embedmill.webhooks WHERE tenant_id = %(t)s LIMIT 1",
    "pipeline": "SELECT name FROM embedmill.pipelines WHERE tenant_id = %(t)s ORDER BY name DESC LIMIT 1",
}
_QUESTION = "q=subject7+and+matter9"
PAGES: Mapping[str, Sequence[str]] = {
    "/": ["/"],
    "/alerts": ["/alerts"],
    "/documents": [
        "/documents",
        "/documents?status=failed",
        "/documents?status=cancelled&pipeline={pipeline}",
    ],
    "/documents/batches/{batch_id}": ["/documents/batches/{batch}"],
    "/documents/jobs/{job_id}": ["/documents/jobs/{job}", "/documents/jobs/{preview}"],
    "/documents/jobs/{job_id}/preview": ["/documents/jobs/{preview}/preview"],
    "/sources": ["/sources", "/sources?state=person", "/sources?page=3"],
    "/sources/add": ["/sources/add", "/sources/add?table=public.crowd_2"],
    "/sources/{source_id:int}": ["/sources/{table}", "/sources/{feed}"],
    "/sources/{source_id:int}/change": ["/sources/{table}/change"],
    "/sources/{source_id:int}/remove": ["/sources/{table}/remove"],
    "/sources/audits": ["/sources/audits"],
    "/sources/audits/{audit_id:int}": ["/sources/audits/{audit}"],
    "/sources/migrations": ["/sources/migrations"],
    "/sources/pipelines/{name}/migration": ["/sources/pipelines/{pipeline}/migration"],
    "/queue": [
        "/queue",
        "/queue?status=pending",
        "/queue?status=failed",
        "/queue?status=completed",
        "/queue?status=processing",
        "/queue?pipeline={pipeline}",
        "/queue?pipeline={pipeline}&status=failed",
        "/queue?type=upload",
        "/queue?type=upload&source={source_id}",
        "/queue?document={document}",
        "/queue?batch={queue_batch}",
        "/queue?job={job}",
    ],
    "/queue/bulk": ["/queue/bulk?act=retry", "/queue/bulk?act=cancel&pipeline={pipeline}"],
    "/queue/jobs/{item_id}": ["/queue/jobs/{item}", "/queue/jobs/{ended_item}"],
    "/queue/dead-letters": [
        "/queue/dead-letters",
        "/queue/dead-letters?reason=crash_loop",
        "/queue/dead-letters?pipeline={pipeline}",
        "/queue/dead-letters?source={feed}",
        "/queue/dead-letters?resolved=1",
    ],
    "/queue/dead-letters/bulk": [
        "/queue/dead-letters/bulk?act=retry",
        "/queue/dead-letters/bulk?act=discard&reason=crash_loop",
    ],
    "/queue/dead-letters/{letter_id:int}": ["/queue/dead-letters/{letter}"],
    "/workers": ["/workers"],
    "/usage": [
        "/usage",
        "/usage?period=90d",
        "/usage?period=7d&zone=Asia/Kathmandu",
        "/usage?period=30d&by=model",
        "/usage?tenant=all",
    ],
    "/search": ["/search", f"/search?{_QUESTION}&pipeline={{pipeline}}"],
    "/settings": ["/settings"],
    "/settings/audit-log": ["/settings/audit-log"],
    "/settings/keys": ["/settings/keys"],
    "/settings/pipelines": ["/settings/pipelines"],
    "/settings/webhooks": ["/settings/webhooks"],
    "/settings/webhooks/{webhook_id}": [
        "/settings/webhooks/{webhook}",
        "/settings/webhooks/{webhook}?status=failed",
    ],
}
ASKS_NOTHING_LARGE: Mapping[str, str] = {
    "/login": "a form, for whoever is not let in yet",
    "/documents/{job_id:uuid}": "leads to the job's page",
    "/queue/acts/{act_id:uuid}": "shows what this process remembers",
    "/usage.csv": "a download, streamed by the cursor: tests/dashboard/test_usage_csv.py",
}


def routers() -> list[APIRouter]:
    return [part.router for part in application._PARTS]


def unlisted(of: Sequence[APIRouter]) -> set[str]:
    """Routes that answer GET and are not in PAGES: add the addresses of a new page there."""
    routes = [route for router in of for route in router.routes if isinstance(route, APIRoute)]
    return {route.path for route in routes if "GET" in route.methods} - {*PAGES, *ASKS_NOTHING_LARGE}


async def addresses(owner: Database, tenant_id: int) -> dict[str, list[str]]:
    """The addresses of each route with ids of this tenant; those whose thing it does not have are left out."""
    ids = {}
    for name, query in _IDS.items():
        row = await owner.fetch_one(query, {"t": tenant_id})
        if row is not None:
            ids[name] = row[0]
    found: dict[str, list[str]] = {}
    for route, patterns in PAGES.items():
        wanted = [each for each in patterns if set(re.findall(r"{(\w+)}", each)) <= set(ids)]
        found[route] = [each.format_map(ids) for each in wanted]
    return found


def later_page(html: str) -> str | None:
    """The address of the next page of a list, where there is one."""
    found = _NEXT.search(html)
    return None if found is None else found[1].replace("&amp;", "&")
