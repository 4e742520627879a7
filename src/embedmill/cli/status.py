"""`embedmill status`: coverage, queue, workers, money, last errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import as_json

if TYPE_CHECKING:
    import msgspec

    from embedmill.app import App


_BINDS = {
    "paused": "it is paused",
    "trouble": "it cannot be read",
    "quota": "the quota binds",
    "backfill": "the backfill's pace binds",
    "budget": "the backfill's budget is used up",
    "embedding": "being embedded",
    "reading": "being read",
    "failed": "the rest has failed",
    "nobody": "nobody sees to the rest: `embedmill backfill`",
}


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Show how complete the vectors are, what waits, who works, what it cost and what went wrong last."""
    from embedmill.cli.running import print_json, read_settings, run_with_app

    facts = run_with_app(read_settings(), _read, connections=1)
    if as_json:
        print_json(facts)
    else:
        _show(facts)


async def _read(app: App) -> dict[str, Any]:
    from embedmill.cli.alerts import summarize
    from embedmill.database.queries import load_queries
    from embedmill.ingest.progress import Coverage
    from embedmill.queue import standing
    from embedmill.queue.alerts import open_alerts
    from embedmill.sources.coverage import source_coverage

    queries = load_queries("embedmill.cli", "status.sql")
    tenant_id = await app.tenant_id()
    pipelines = await app.database.fetch(queries["pipelines"], {"tenant_id": tenant_id})
    sources = await source_coverage(app.database, tenant_id)
    counts = await standing.queue_counts(app.database, tenant_id)
    held_up = await standing.held_up(app.database, tenant_id)
    spent = await standing.spent(app.database, tenant_id)
    alerts = await open_alerts(app.database, tenant_id, with_installation=True)
    return {
        "alerts": summarize(alerts),
        "pipelines": [
            {
                "name": name,
                "documents": documents,
                "unreadable_documents": unreadable,
                "chunks": chunks,
                "embedded": embedded,
                "unembeddable": unembeddable,
                "coverage_percent": round(Coverage(chunks, embedded, unembeddable).percent, 2),
                "index": {True: "ready", False: "building", None: "none (exact search)"}[valid],
            }
            for name, chunks, embedded, unembeddable, valid, documents, unreadable in pipelines
        ],
        "sources": [
            {name: getattr(source, name) for name in source.__struct_fields__ if name != "record_source_id"}
            for source in sources
            if source.kind != "uploads"
        ],
        "queue": {
            "pending": counts.pending,
            "processing": counts.processing,
            "rate_limited": counts.rate_limited,
            "oldest_waiting_seconds": counts.oldest_waiting_seconds,
        },
        "ended": {"completed": counts.completed, "failed": counts.failed, "cancelled": counts.cancelled},
        "held_up": {
            "queue_enabled": held_up.queue_enabled,
            "paused_pipelines": held_up.paused_pipelines,
            "backing_off": counts.backing_off,
            "open_dead_letters": held_up.open_dead_letters,
        },
        "binding_quotas": [
            {"reason": quota.reason, **_fields(quota)}
            for quota in await standing.binding_quotas(app.database, tenant_id)
        ],
        "workers": [
            {
                **_fields(worker),
                "id": str(worker.id),
                "heartbeat_age_seconds": round(worker.heartbeat_age_seconds, 1),
            }
            for worker in await standing.recent_workers(app.database)
        ],
        "usage": {
            **_fields(spent),
            "today_cost_usd": None if spent.today_cost_usd is None else float(spent.today_cost_usd),
            "month_cost_usd": None if spent.month_cost_usd is None else float(spent.month_cost_usd),
        },
        "last_errors": [
            {**_fields(trouble), "at": trouble.at.isoformat()}
            for trouble in await standing.latest_troubles(app.database, tenant_id)
        ],
    }


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def _show(facts: dict[str, Any]) -> None:
    _show_alerts(facts["alerts"])
    for pipeline in facts["pipelines"]:
        print(
            f"pipeline  {pipeline['name']}: coverage {pipeline['coverage_percent']:g}%, "
            f"{pipeline['embedded']:,} of {pipeline['chunks'] - pipeline['unembeddable']:,} chunks of "
            f"{pipeline['documents']:,} documents; index {pipeline['index']}"
        )
        if pipeline["unembeddable"] or pipeline["unreadable_documents"]:
            print(
                f"          not embeddable: {pipeline['unembeddable']:,} chunks refused, "
                f"{pipeline['unreadable_documents']:,} documents unreadable"
            )
    for source in facts["sources"]:
        _show_source(source)
    _show_queue(facts)
    at_work = [worker for worker in facts["workers"] if worker["status"] in ("active", "idle")]
    print(f"workers   {len(at_work)} at work")
    for worker in at_work:
        print(
            f"          {worker['host']} pid {worker['pid']}: {worker['status']}, "
            f"{worker['chunks_embedded']:,} chunks, {worker['errors']} errors"
        )
    usage = facts["usage"]
    print(f"paid      {usage['month_tokens']:,} tokens this month, {usage['today_tokens']:,} today")
    for error in facts["last_errors"]:
        print(f"error     {error['at'][:19]} {error['what']}: {error['message']} [{error['reason']}]")


def _show_source(source: dict[str, Any]) -> None:
    """One table or shard feed: how complete it is, and what the rest waits for."""
    rows = "not counted yet" if source["rows"] is None else f"{source['rows']:,} rows"
    print(
        f"source    {source['name']}: coverage {source['percent']:g}%, {rows}, {source['unread_rows']:,} not read yet, "
        f"{source['waiting_chunks']:,} chunks and {source['waiting_rows']:,} changes wait{_until_done(source)}"
    )
    if source["unembeddable"]:
        reasons = ", ".join(
            f"{number:,} {reason}" for reason, number in sorted(source["unembeddable"].items())
        )
        print(f"          not embeddable: {reasons}")
    if source["failed"]:
        print(f"          failed: {source['failed']:,} items; `embedmill queue dead-letters`")
    if source["trouble"]:
        print(f"          {source['trouble']}")


def _until_done(source: dict[str, Any]) -> str:
    """What binds, and how long by that."""
    from embedmill.cli.tables import span

    if source["binds"] == "none":
        return ""
    why = _BINDS[source["binds"]]
    return f"; {why}" + (f", done in {span(source['eta_seconds'])}" if source["eta_seconds"] else "")


def _show_queue(facts: dict[str, Any]) -> None:
    """What waits, and what holds it up."""
    queue, held_up = facts["queue"], facts["held_up"]
    oldest = queue["oldest_waiting_seconds"]
    later = f" ({held_up['backing_off']:,} of them after a failure)" if held_up["backing_off"] else ""
    print(
        f"queue     {queue['pending']:,} pending{later}, {queue['processing']:,} processing, "
        f"{queue['rate_limited']:,} rate limited" + (f"; oldest waits {oldest:,.0f} s" if oldest else "")
    )
    if not held_up["queue_enabled"]:
        print("          off: queue_enabled is false; `embedmill config set queue_enabled true`")
    if held_up["paused_pipelines"]:
        print(f"          paused: {', '.join(held_up['paused_pipelines'])}; `embedmill queue resume`")
    for quota in facts["binding_quotas"]:
        print(f"          quota {quota['quota_key']}: {quota['reason']}")
    if held_up["open_dead_letters"]:
        from embedmill.queue.standing import COUNTED_AT_MOST

        number = held_up["open_dead_letters"]
        bound = " or more" if number == COUNTED_AT_MOST else ""
        noun = "letter" if number == 1 else "letters"
        print(f"          {number:,}{bound} open dead {noun}: `embedmill queue dead-letters`")


def _show_alerts(alerts: dict[str, Any]) -> None:
    heeded = [f"{alerts[severity]:,} {severity}" for severity in ("critical", "warning") if alerts[severity]]
    if heeded:
        print(f"alerts    {', '.join(heeded)}: `embedmill alerts`")
        print(f"          {alerts['first_message']}")
