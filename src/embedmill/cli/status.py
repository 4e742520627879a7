"""`embedmill status`: coverage, queue, workers, money, last errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from embedmill.cli.options import as_json

if TYPE_CHECKING:
    from embedmill.app import App


_COUNTED_AT_MOST = 10_000
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
    from embedmill.database.queries import load_queries
    from embedmill.ingest.progress import Coverage
    from embedmill.sources.coverage import source_coverage

    queries = load_queries("embedmill.cli", "status.sql")
    tenant = {"tenant_id": await app.tenant_id()}
    rows = {name: await app.database.fetch(query, tenant) for name, query in queries.items()}
    sources = await source_coverage(app.database, tenant["tenant_id"])
    pending, processing, completed, failed, cancelled = rows["queue"][0]
    oldest, rate_limited, backing_off = rows["waiting"][0]
    enabled, paused, dead_letters = rows["held_up"][0]
    day_tokens, day_cost, month_tokens, month_cost, unpriced = rows["spent"][0]
    return {
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
            for name, chunks, embedded, unembeddable, valid, documents, unreadable in rows["pipelines"]
        ],
        "sources": [
            {name: getattr(source, name) for name in source.__struct_fields__ if name != "record_source_id"}
            for source in sources
            if source.kind != "uploads"
        ],
        "queue": {
            "pending": max(pending - rate_limited, 0),
            "processing": processing,
            "rate_limited": rate_limited,
            "oldest_waiting_seconds": oldest,
        },
        "ended": {"completed": completed, "failed": failed, "cancelled": cancelled},
        "held_up": {
            "queue_enabled": enabled,
            "paused_pipelines": paused,
            "backing_off": backing_off,
            "open_dead_letters": dead_letters,
        },
        "binding_quotas": [
            {
                "quota_key": key,
                "calls_used": calls,
                "calls_per_minute": most_calls,
                "tokens_used": tokens,
                "tokens_per_minute": most_tokens,
                "cooling_seconds": cooling,
                "cooldown_reason": reason,
            }
            for key, calls, most_calls, tokens, most_tokens, cooling, reason in rows["binding_quotas"]
        ],
        "workers": [
            {
                "id": str(worker_id),
                "host": host,
                "pid": pid,
                "status": state,
                "heartbeat_age_seconds": round(age, 1),
                "chunks_embedded": chunks,
                "errors": errors,
                "rate_limits_hit": limited,
                "last_error": last_error,
            }
            for worker_id, host, pid, state, age, chunks, errors, limited, last_error in rows["workers"]
        ],
        "usage": {
            "today_tokens": day_tokens,
            "today_cost_usd": None if day_cost is None else float(day_cost),
            "month_tokens": month_tokens,
            "month_cost_usd": None if month_cost is None else float(month_cost),
            "month_unpriced_calls": unpriced,
        },
        "last_errors": [
            {"at": at.isoformat(), "what": what, "reason": reason, "message": message}
            for at, what, reason, message in rows["last_errors"]
        ],
    }


def _show(facts: dict[str, Any]) -> None:
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
        print(f"          quota {quota['quota_key']}: {_why_it_binds(quota)}")
    if held_up["open_dead_letters"]:
        number = held_up["open_dead_letters"]
        bound = " or more" if number == _COUNTED_AT_MOST else ""
        noun = "letter" if number == 1 else "letters"
        print(f"          {number:,}{bound} open dead {noun}: `embedmill queue dead-letters`")


def _why_it_binds(quota: dict[str, Any]) -> str:
    if quota["cooling_seconds"] > 0:
        reason = f": {quota['cooldown_reason']}" if quota["cooldown_reason"] else ""
        return f"everybody holds back for {quota['cooling_seconds']:,.0f} s{reason}"
    used = [
        f"{quota[f'{noun}_used']:,} of {quota[f'{noun}_per_minute']:,} {noun}"
        for noun in ("calls", "tokens")
        if quota[f"{noun}_per_minute"] is not None
    ]
    return f"{' and '.join(used)} of a minute are used; work waits for it"
