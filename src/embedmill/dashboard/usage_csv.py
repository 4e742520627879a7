"""Usage as files: /usage.csv with sums by day, or with calls one by one. Owns how a file looks; it is written as it is
read, a page of calls at a time.

A cell that a spreadsheet would take for a formula (names are whatever users typed) begins with an apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from embedmill.dashboard.usage import Scope
from embedmill.dashboard.usage_span import Asked, Span, read_span
from embedmill.dashboard.visitors import Reader
from embedmill.errors import ConfigurationError
from embedmill.usage.calls import Call, DaySum, read_calls, read_day_sums

router = APIRouter()
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_SUMS = (
    "tenant",
    "pipeline",
    "usage_type",
    "provider",
    "model",
    "calls",
    "failed_calls",
    "inputs",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "calls_of_unknown_cost",
    "average_latency_ms",
)
_CALLS = (
    "at_utc",
    "tenant",
    "pipeline",
    "usage_type",
    "action",
    "provider",
    "model",
    "inputs",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "latency_ms",
    "user_id",
    "ingestion_job_id",
    "call_id",
    "error",
)


@router.get("/usage.csv")
async def usage_file(
    visitor: Reader,
    kind: Literal["sums", "calls"] = "sums",
    period: Annotated[str, Query(max_length=20)] = "month",
    first: Annotated[str, Query(alias="from", max_length=20)] = "",
    last: Annotated[str, Query(alias="to", max_length=20)] = "",
    zone: Annotated[str, Query(max_length=64)] = "UTC",
    tenant: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """The same time and tenants as the page shows; an unknown cost is an empty cell."""
    scope = Scope(visitor, tenant)
    asked = Asked(period, first.strip(), last.strip(), zone.strip() or "UTC")
    span, errors = read_span(asked, datetime.now(UTC))
    if errors:
        raise ConfigurationError("; ".join(f"{field}: {text}" for field, text in errors.items()))
    whose = "all-tenants" if scope.is_all else "".join(c if c.isalnum() else "-" for c in visitor.tenant)
    name = f"usage-{kind}-{whose.encode('ascii', 'ignore').decode()}-{span.first}-{span.last}.csv"
    lines = _sum_lines(scope, span) if kind == "sums" else _call_lines(scope, span)
    # The first lines are read before the answer begins: what is wrong by then is said as an error, not in the file.
    begun = await anext(lines)
    return StreamingResponse(
        _joined(begun, lines),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


async def _joined(begun: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield begun
    async for piece in rest:
        yield piece


async def _sum_lines(scope: Scope, span: Span) -> AsyncIterator[str]:
    sums = await read_day_sums(scope.database, scope.tenant_id, span.since, span.until, span.zone)
    yield _lines([(f"day ({span.zone})", *_SUMS)])
    for begin in range(0, len(sums), 1000):
        yield _lines(_sum_cells(one) for one in sums[begin : begin + 1000])


async def _call_lines(scope: Scope, span: Span) -> AsyncIterator[str]:
    # Up to this moment: what is called while the file is written is the next file's.
    until = span.until or datetime.now(UTC)
    pages = read_calls(scope.database, scope.tenant_id, span.since, until)
    page: list[Call] = await anext(pages, [])
    yield _lines([_CALLS, *(_call_cells(call) for call in page)])
    async for page in pages:
        yield _lines(_call_cells(call) for call in page)


def _sum_cells(one: DaySum) -> tuple[object, ...]:
    return (
        one.day,
        one.tenant,
        one.pipeline,
        one.usage_type,
        one.provider,
        one.model,
        one.calls,
        one.failed_calls,
        one.inputs,
        one.input_tokens,
        one.output_tokens,
        one.cost_usd,
        one.unknown_cost_calls,
        one.latency_ms_average,
    )


def _call_cells(call: Call) -> tuple[object, ...]:
    return (
        call.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        call.tenant,
        call.pipeline,
        call.usage_type,
        call.action,
        call.provider,
        call.model,
        call.inputs,
        call.input_tokens,
        call.output_tokens,
        call.cost_usd,
        call.latency_ms,
        call.user_id,
        call.session_id,
        call.call_id,
        call.error,
    )


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> str:
    """Numbers as they are, without exponents; what begins like a formula is made text."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if not isinstance(value, str):
        return str(value)
    text = value.replace("\x00", "")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
