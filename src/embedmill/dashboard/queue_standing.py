"""What holds a tenant's queue up, in words with what to do about it. Owns the words and their order; what is so is
queue/standing.py's to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from embedmill.dashboard.rendering import money
from embedmill.dashboard.visitors import Visitor
from embedmill.database.queries import load_queries
from embedmill.queue import standing
from embedmill.queue.standing import HeldUp, QueueCounts
from embedmill.usage.budgets import Budget, tenant_budget

_SQL = load_queries("embedmill.dashboard", "queue.sql")


class Hindrance(msgspec.Struct, frozen=True):
    """One thing. `address` leads to where it is changed, and `link` says what stands there."""

    id: str
    severity: str
    title: str
    text: str
    address: str = ""
    link: str = ""


async def hindrances(
    visitor: Visitor, held_up: HeldUp, counts: QueueCounts, workers_at_work: int
) -> Sequence[Hindrance]:
    """What a person would want to know first, first."""
    database, tenant_id = visitor.database, visitor.tenant_id
    found = [
        *_switched_off(held_up, is_operator=visitor.is_operator),
        *_no_workers(counts, workers_at_work),
        *_budget(await tenant_budget(database, tenant_id)),
        *_paused(held_up),
    ]
    found += [
        Hindrance(
            f"quota-{quota.quota_key}",
            "warning",
            f"Quota {quota.quota_key} binds",
            f"{quota.reason[:1].upper()}{quota.reason[1:]}. It goes on by itself as the minute passes.",
            "/settings/pipelines",
            "Limits",
        )
        for quota in await standing.binding_quotas(database, tenant_id)
    ]
    found += [
        Hindrance(
            f"trouble-{pipeline}",
            "warning",
            f"{pipeline} is left alone for now",
            f"{reason or 'its provider does not answer'}. Workers try again by themselves within a minute.",
            "/settings/pipelines",
            "Pipelines",
        )
        for pipeline, reason in await database.fetch(_SQL["troubles"], {"tenant_id": tenant_id})
    ]
    row = await database.fetch_one(_SQL["cap"], {"tenant_id": tenant_id})
    return [*found, *_cap(counts, row[0] if row else None)]


def _switched_off(held_up: HeldUp, *, is_operator: bool) -> Iterator[Hindrance]:
    if held_up.queue_enabled:
        return
    title = "The queue is off"
    if is_operator:
        say = "Workers claim nothing, of any tenant, until somebody switches it on."
        yield Hindrance("off", "critical", title, say, "/workers", "Switch it on")
    else:
        yield Hindrance("off", "critical", title, "Whoever runs embedmill has switched it off.")


def _no_workers(counts: QueueCounts, workers_at_work: int) -> Iterator[Hindrance]:
    if not workers_at_work and _waits(counts):
        yield Hindrance(
            "no-workers",
            "critical",
            "No worker is at work",
            "Nothing is embedded until one is: `embedmill worker` starts one, `embedmill up` as many as needed.",
            "/workers",
            "Workers",
        )


def _budget(budget: Budget | None) -> Iterator[Hindrance]:
    if budget is None or budget.reached_at is None:
        return
    until = "until it is raised" + (" or the next month begins" if budget.period == "month" else "")
    yield Hindrance(
        "budget",
        "warning",
        "The budget is reached",
        f"{money(budget.spent_usd)} of {money(budget.limit_usd)} are spent: what costs anything waits {until}.",
        "/usage",
        "Budget",
    )


def _paused(held_up: HeldUp) -> Iterator[Hindrance]:
    if names := ", ".join(held_up.paused_pipelines):
        yield Hindrance(
            "paused",
            "warning",
            f"Paused: {names}",
            "Nothing of it is claimed until somebody resumes it, below.",
        )


def _cap(counts: QueueCounts, most: int | None) -> Iterator[Hindrance]:
    if most is not None and counts.processing >= most and _waits(counts):
        yield Hindrance(
            "cap",
            "warning",
            "The tenant's share is used up",
            f"{counts.processing:,} of its items are worked on, and no more than {most:,} may be at a time.",
        )


def _waits(counts: QueueCounts) -> bool:
    return counts.pending + counts.rate_limited > 0
