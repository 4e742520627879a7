"""Budgets as a person sets them: of a tenant, in a month or in all, and of a job. Owns setting, reading and removing;
keeping within them is the database's (functions/52_budgets.sql) and the embedder's (embed/budgeting.py).

A budget is a hard stop in advance. What waits when it is reached goes on when it is raised or removed, or when the
next month (of UTC) begins. It binds calls that are made from two seconds after it was set. A call that cannot be
counted, because its pipeline's price is not known, is never stopped; one that costs nothing neither.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Literal
from uuid import UUID

import msgspec
import psycopg

from embedmill.database.pool import Database
from embedmill.database.queries import load_queries
from embedmill.errors import ConfigurationError, NotFoundError

MOST_USD = 1_000_000_000
"""The largest budget that there may be."""
_SQL = load_queries("embedmill.usage", "budgets.sql")

Period = Literal["month", "total"]
Amount = Decimal | float | int | str


class Budget(msgspec.Struct, frozen=True):
    """US dollars. `reserved_usd` is what calls under way may cost; `reached_at`: since when it stops its work, None
    while it does not. `uncounted_pipelines` have no known price: what they spend is not in `spent_usd`."""

    job_id: UUID | None
    period: Period
    limit_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal
    reached_at: datetime | None
    uncounted_pipelines: list[str]

    @property
    def left_usd(self) -> Decimal:
        """What may still be spent, were the calls under way to cost all that they have reserved."""
        return max(self.limit_usd - self.spent_usd - self.reserved_usd, Decimal(0))


async def tenant_budget(database: Database, tenant_id: int) -> Budget | None:
    """The tenant's own budget; None where it has none."""
    return await _find(database, tenant_id, None)


async def set_tenant_budget(
    database: Database,
    tenant_id: int,
    limit_usd: Amount,
    *,
    period: Period = "month",
    actor: str | None = None,
) -> Budget:
    """Set, raise or lower the tenant's budget; what the ledger says was spent in the period counts. A
    ConfigurationError for a limit or period that cannot be."""
    return await _set(database, tenant_id, None, period, limit_usd, actor)


async def remove_tenant_budget(database: Database, tenant_id: int, *, actor: str | None = None) -> bool:
    """Take it away, so that everything goes on; False where there was none."""
    return await _remove(database, tenant_id, None, actor)


async def job_budget(database: Database, tenant_id: int, job_id: UUID) -> Budget | None:
    """A job's budget; None where it has none."""
    return await _find(database, tenant_id, job_id)


async def set_job_budget(
    database: Database, tenant_id: int, job_id: UUID, limit_usd: Amount | None, *, actor: str | None = None
) -> Budget | None:
    """Set, raise or lower a job's budget; None takes it away. What the job has cost so far counts. NotFoundError for
    an unknown job, ConfigurationError where the price of its pipeline is not known."""
    if limit_usd is None:
        await _remove(database, tenant_id, job_id, actor)
        return None
    return await _set(database, tenant_id, job_id, "total", limit_usd, actor)


async def remove_job_budget(
    database: Database, tenant_id: int, job_id: UUID, *, actor: str | None = None
) -> bool:
    """Take it away, so that the job goes on; False where there was none."""
    return await _remove(database, tenant_id, job_id, actor)


async def _set(
    database: Database, tenant_id: int, job_id: UUID | None, period: str, limit_usd: Amount, actor: str | None
) -> Budget:
    if period not in {"month", "total"}:
        raise ConfigurationError(f"a budget is for a month or in total, not for {period!r}")
    aim = {"tenant_id": tenant_id, "job_id": job_id}
    try:
        async with database.transaction() as connection:
            if actor is not None:
                await connection.execute(_SQL["act_as"], {"actor": actor})
            await connection.execute(
                _SQL["set_budget"], {**aim, "period": period, "limit_usd": _amount(limit_usd)}
            )
    except psycopg.errors.InvalidParameterValue as error:
        raise ConfigurationError(str(error.diag.message_primary)) from error
    except psycopg.Error as error:
        if error.sqlstate == "EM404":
            raise NotFoundError(str(error.diag.message_primary)) from error
        raise
    await database.fetch(_SQL["release_budget"], aim)
    budget = await _find(database, tenant_id, job_id)
    if budget is None:
        raise NotFoundError("the budget was removed by somebody else in this moment: set it again")
    return budget


async def _remove(database: Database, tenant_id: int, job_id: UUID | None, actor: str | None) -> bool:
    aim = {"tenant_id": tenant_id, "job_id": job_id}
    async with database.transaction() as connection:
        if actor is not None:
            await connection.execute(_SQL["act_as"], {"actor": actor})
        row = await (await connection.execute(_SQL["remove_budget"], aim)).fetchone()
    await database.fetch(_SQL["release_budget"], aim)
    return bool(row and row[0])


async def _find(database: Database, tenant_id: int, job_id: UUID | None) -> Budget | None:
    row = await database.fetch_one(_SQL["find_budget"], {"tenant_id": tenant_id, "job_id": job_id})
    return None if row is None else Budget(*row)


def _amount(limit_usd: Amount) -> Decimal:
    """Exactly what was said: 0.1 is a tenth. Raises ConfigurationError."""
    try:
        amount = Decimal(str(limit_usd))
    except InvalidOperation as error:
        raise ConfigurationError(f"a budget is an amount of US dollars, not {limit_usd!r}") from error
    if not amount.is_finite() or not 0 <= amount <= MOST_USD:
        raise ConfigurationError(
            f"a budget is an amount of US dollars from 0 to {MOST_USD:,}, not {limit_usd!r}"
        )
    return amount
