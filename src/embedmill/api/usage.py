"""/api/v1/usage and /api/v1/budget: what was paid for, and the most that may be. Owns the wire's shapes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, Field

from embedmill.api.problems import describe
from embedmill.api.service import Admin, Reader
from embedmill.api.wire import Wire
from embedmill.errors import NotFoundError
from embedmill.usage import budgets
from embedmill.usage.ledger import Grouping, UsageSum, summarize_usage

router = APIRouter(tags=["usage"])


class UsageRow(Wire):
    """Calls and what they counted. `costUsd` sums the known costs and is null where none is known; of
    `unknownCostCalls` nobody knows it. Failed calls are counted with what they were charged."""

    group: str | None
    calls: int
    failed_calls: int
    inputs: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float | None
    unknown_cost_calls: int
    latency_ms_average: float | None

    @classmethod
    def of(cls, row: UsageSum) -> UsageRow:
        fields = {name: getattr(row, name) for name in cls.model_fields}
        return cls(**{**fields, "cost_usd": None if row.cost_usd is None else float(row.cost_usd)})


class Usage(Wire):
    """The sums of the groups, and of all. `truncated`: there are more groups than are shown."""

    group_by: str
    since: datetime | None
    until: datetime | None
    time_zone: str
    rows: list[UsageRow]
    total: UsageRow
    truncated: bool


class Budget(Wire):
    """The most that the tenant may spend in a period. `reachedAt`: since when it stops the tenant's work."""

    limit_usd: float
    period: Literal["month", "total"]
    spent_usd: float
    reserved_usd: float
    reached_at: datetime | None
    uncounted_pipelines: list[str]

    @classmethod
    def of(cls, budget: budgets.Budget) -> Budget:
        return cls(
            limit_usd=float(budget.limit_usd),
            period=budget.period,
            spent_usd=float(budget.spent_usd),
            reserved_usd=float(budget.reserved_usd),
            reached_at=budget.reached_at,
            uncounted_pipelines=budget.uncounted_pipelines,
        )


class NewBudget(Wire):
    limit_usd: Annotated[float, Field(ge=0, le=1e9)]
    period: Literal["month", "total"] = "month"


@router.get("/usage", responses=describe(401, 403, 422, 429))
async def get_usage(
    caller: Reader,
    by: Annotated[
        Literal["usage_type", "model", "pipeline", "day", "user", "session"],
        Query(description="By what the ledger is summed; session is the ingestion job."),
    ] = "usage_type",
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    time_zone: Annotated[str, Query(alias="timeZone", max_length=64, description="Whose days.")] = "UTC",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Usage:
    """The ledger of calls to providers, summed."""
    found = await summarize_usage(
        caller.database,
        caller.tenant_id,
        Grouping(by),
        since=since,
        until=until,
        time_zone=time_zone,
        limit=limit,
    )
    return Usage(
        group_by=found.group_by,
        since=found.since,
        until=found.until,
        time_zone=found.time_zone,
        rows=[UsageRow.of(row) for row in found.rows],
        total=UsageRow.of(found.total),
        truncated=found.truncated,
    )


@router.get("/budget", responses=describe(401, 403, 404, 429))
async def get_budget(caller: Reader) -> Budget:
    """The tenant's budget."""
    found = await budgets.tenant_budget(caller.database, caller.tenant_id)
    if found is None:
        raise NotFoundError("this tenant has no budget: nothing limits what it spends")
    return Budget.of(found)


@router.put("/budget", responses=describe(401, 403, 422, 429))
async def set_budget(new: NewBudget, caller: Admin) -> Budget:
    """Set, raise or lower it. Work that it stopped goes on when it is raised."""
    set_to = await budgets.set_tenant_budget(
        caller.database, caller.tenant_id, new.limit_usd, period=new.period, actor=caller.principal.actor
    )
    return Budget.of(set_to)


@router.delete("/budget", status_code=204, responses=describe(401, 403, 404, 429))
async def remove_budget(caller: Admin) -> None:
    """Take it away: what it stopped goes on."""
    if not await budgets.remove_tenant_budget(
        caller.database, caller.tenant_id, actor=caller.principal.actor
    ):
        raise NotFoundError("this tenant has no budget")
