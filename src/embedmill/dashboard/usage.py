"""Usage: what calls to providers counted and cost in a chosen time, and the most that may be spent. Owns how the sums
are put beside each other and the forms of the budgets; sums are usage/'s, files usage_csv.py's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, cast
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from embedmill.dashboard.charts import Bar, Chart, draw
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.rendering import money
from embedmill.dashboard.usage_span import PERIODS, Asked, Span, day_or_nothing, read_span
from embedmill.dashboard.visitors import Admin, Reader, Visitor, Writer
from embedmill.database.pool import Database
from embedmill.errors import ConfigurationError, EmbedmillError, NotAllowedError
from embedmill.queue.sharing import Quota, list_quotas
from embedmill.usage import budgets
from embedmill.usage.ledger import Grouping, summarize_usage
from embedmill.usage.survey import MOST_GROUPS, Survey, held_jobs, job_costs, survey_usage

router = APIRouter()
_SERIES = 5
_OTHERS = "others"
MOST_CALLS_ONE_BY_ONE = 30_000
"""By user and by job calls are summed one by one: a page does so up to here."""
_NEVER_EMBEDDED = {"query"}


class Scope:
    """Whose usage: the visitor's tenant, or, for operators who ask for it, of all."""

    def __init__(self, visitor: Visitor, tenant: str) -> None:
        self.is_all = tenant == "all"
        if self.is_all and not visitor.is_operator:
            raise NotAllowedError("the usage of all tenants is for operators")
        self.tenant_id = None if self.is_all else visitor.tenant_id
        self.database: Database = visitor.service.operator if self.is_all else visitor.database


@router.get("/usage")
async def usage_page(
    request: Request,
    visitor: Reader,
    period: Annotated[str, Query(max_length=20)] = "month",
    first: Annotated[str, Query(alias="from", max_length=20)] = "",
    last: Annotated[str, Query(alias="to", max_length=20)] = "",
    zone: Annotated[str, Query(max_length=64)] = "UTC",
    by: Annotated[str, Query(max_length=20)] = "",
    tenant: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    asked = Asked(period, first.strip(), last.strip(), zone.strip() or "UTC")
    scope = Scope(visitor, tenant)
    errors = read_span(asked, datetime.now(UTC))[1]
    return await show(
        request,
        visitor,
        "usage.html",
        lambda: load_usage(visitor, scope, asked, by, datetime.now(UTC)),
        status=422 if errors else 200,
    )


@router.post("/usage")
async def set_budget(
    request: Request,
    visitor: Admin,
    limit_usd: Annotated[str, Form(max_length=100)] = "",
    period: Annotated[str, Form(max_length=20)] = "month",
) -> Response:
    """Set, raise or lower the tenant's budget."""
    try:
        limit = read_amount(limit_usd)
        budget = await budgets.set_tenant_budget(
            visitor.database,
            visitor.tenant_id,
            limit,
            period=cast("budgets.Period", period),
            actor=visitor.actor,
        )
    except ConfigurationError as error:
        refused = {"limit_usd": limit_usd, "period": period, "reason": str(error)}
        scope = Scope(visitor, "")
        return await show(
            request,
            visitor,
            "usage.html",
            lambda: load_usage(visitor, scope, Asked(), "", datetime.now(UTC), refused_budget=refused),
            status=422,
        )
    span = "a month" if budget.period == "month" else "in all"
    return redirect(
        "/usage#budget", f"The budget of {visitor.tenant} is {money(budget.limit_usd)} {span} now."
    )


@router.post("/usage/budget/remove")
async def remove_budget(visitor: Admin) -> Response:
    """Take it away: what it stopped goes on."""
    was_there = await budgets.remove_tenant_budget(visitor.database, visitor.tenant_id, actor=visitor.actor)
    if not was_there:
        return redirect("/usage#budget", "There was no budget any more.", is_error=True)
    return redirect("/usage#budget", "The budget is removed: what waited on it goes on.")


@router.post("/usage/jobs/{job_id}/budget")
async def set_job_budget(
    visitor: Writer, job_id: UUID, limit_usd: Annotated[str, Form(max_length=100)] = ""
) -> Response:
    """Raise what a job may spend; empty takes its budget away."""
    try:
        limit = read_amount(limit_usd) if limit_usd.strip() else None
        await budgets.set_job_budget(visitor.database, visitor.tenant_id, job_id, limit, actor=visitor.actor)
    except EmbedmillError as error:
        return redirect("/usage#held", str(error), is_error=True)
    said = "has no budget of its own any more" if limit is None else f"may spend {money(limit)}"
    return redirect("/usage#held", f"The job {said}.")


def read_amount(text: str) -> Decimal:
    """US dollars as people type them: `$1,000`, `12.50`. Raises ConfigurationError."""
    bare = text.strip().removeprefix("$").strip()
    if "," in bare:
        whole, _, cents = bare.partition(".")
        groups = whole.split(",")
        if not (1 <= len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])):
            raise ConfigurationError(
                f"{text!r} is not clear: write the cents after a point, as in 12.50, and thousands as 1,000"
            )
        bare = "".join(groups) + (f".{cents}" if cents else "")
    try:
        amount = Decimal(bare)
    except ArithmeticError as error:
        raise ConfigurationError(
            f"a budget is an amount of US dollars such as 12.50, not {text!r}"
        ) from error
    if not amount.is_finite() or not 0 <= amount <= budgets.MOST_USD:
        raise ConfigurationError(f"a budget is an amount of US dollars from 0 to {budgets.MOST_USD:,}")
    return amount


async def load_usage(
    visitor: Visitor,
    scope: Scope,
    asked: Asked,
    by: str,
    now: datetime,
    *,
    refused_budget: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    span, errors = read_span(asked, now)
    survey = await survey_usage(scope.database, scope.tenant_id, span.since, span.until, span.zone)
    query = {**({} if errors else asked.query), **({"tenant": "all"} if scope.is_all else {})}
    return {
        "asked": asked,
        "typed": (day_or_nothing(asked.first), day_or_nothing(asked.last)),
        "errors": errors,
        "periods": PERIODS,
        "span": span,
        "survey": survey,
        "query": query,
        "is_all": scope.is_all,
        "most_groups": MOST_GROUPS,
        "cost_by_day": by_day(survey, span, "Cost by day, US dollars", lambda one: float(one.cost_usd or 0)),
        "tokens_by_day": by_day(survey, span, "Tokens by day", lambda one: float(one.tokens)),
        "per_thousand": cost_per_thousand_inputs(survey),
        "by": by if by in {"user", "session"} else "",
        "single": await _one_by_one(scope, span, survey, by),
        "most_calls": MOST_CALLS_ONE_BY_ONE,
        "refused_budget": refused_budget,
        **(await _of_tenant(visitor, span) if not scope.is_all else {}),
    }


async def _of_tenant(visitor: Visitor, span: Span) -> Mapping[str, Any]:
    """What there is of a tenant only."""
    database, tenant_id = visitor.database, visitor.tenant_id
    return {
        "job_costs": await job_costs(database, tenant_id, span.since, span.until),
        "budget": await budgets.tenant_budget(database, tenant_id),
        "held": await held_jobs(database, tenant_id),
        "quotas": [quota for quota in await list_quotas(database, tenant_id) if _limits_own(quota)],
    }


async def _one_by_one(scope: Scope, span: Span, survey: Survey, by: str) -> Any:
    """The sums by user or job, where they are asked for and the calls are not too many."""
    if by not in {"user", "session"} or survey.total.calls > MOST_CALLS_ONE_BY_ONE:
        return None
    return await summarize_usage(
        scope.database,
        scope.tenant_id,
        Grouping(by),
        since=span.since,
        until=span.until,
        time_zone=span.zone,
        limit=MOST_GROUPS,
    )


def by_day(survey: Survey, span: Span, title: str, value: Any) -> Chart:
    """A stack for each day of the span: the largest kinds of usage, and the others together."""
    weights, values = Counter[str](), defaultdict[tuple[date | None, str], float](float)
    for one in survey.days:
        weights[one.group or ""] += one.tokens + one.calls
    largest = sorted(weights, key=lambda kind: (-weights[kind], kind))[:_SERIES]
    for one in survey.days:
        values[one.day, one.group if one.group in largest else _OTHERS] += value(one)
    names = [*largest, *([_OTHERS] if len(weights) > len(largest) else [])]
    bars = [Bar(day.isoformat(), tuple(values[day, name] for name in names)) for day in span.days]
    return draw(title, [name.replace("_", " ") for name in names], bars)


def cost_per_thousand_inputs(survey: Survey) -> Decimal | None:
    """What a thousand chunks cost, those of failed calls among the cost; None where a price is not known or nothing was
    embedded."""
    embedded = [one for one in survey.by_type if one.group not in _NEVER_EMBEDDED]
    inputs = sum(one.inputs for one in embedded)
    if not inputs or any(one.unknown_cost_calls for one in embedded) or len(survey.by_type) >= MOST_GROUPS:
        return None
    return sum((one.cost_usd or Decimal(0) for one in embedded), Decimal(0)) / inputs * 1000


def _limits_own(quota: Quota) -> bool:
    """Whether a pipeline of this tenant goes by it, and it limits anything: other tenants' are written tenant/name."""
    is_limited = quota.calls_per_minute is not None or quota.tokens_per_minute is not None
    return is_limited and any("/" not in name for name in quota.pipelines)
