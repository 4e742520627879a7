"""Usage as files: read back they are the ledger, and REST's sums; no cell is a formula, and no call is
left out."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from decimal import Decimal

from embedmill.database.pipelines import Pipeline
from embedmill.usage.calls import PAGE
from tests.dashboard.usage_rows import make_calls
from tests.support.serving import Serving, client_at


async def rows_of(one: Serving, query: str) -> list[dict[str, str]]:
    async with client_at(one.address) as client:
        answer = await client.get(f"/usage.csv?{query}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"].startswith('attachment; filename="usage-')
        return list(csv.DictReader(io.StringIO(answer.text)))


async def test_both_files_add_up_to_what_rest_says(idle_service: Serving, pipeline: Pipeline) -> None:
    owner = idle_service.service.operator
    calls = 2 * PAGE + 7
    await make_calls(owner, pipeline.tenant_id, calls, pipeline_id=pipeline.id, seconds=1000, unknown_each=11)
    sums, single = (
        await rows_of(idle_service, "period=30d"),
        await rows_of(idle_service, "kind=calls&period=30d"),
    )
    from datetime import UTC, datetime, timedelta  # the span that the file has

    since = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=29)
    for grouping, column in (("usage_type", "usage_type"), ("pipeline", "pipeline"), ("day", "day (UTC)")):
        answer = await idle_service.client.get("/usage", params={"by": grouping, "since": since.isoformat()})
        rest = {row["group"]: row for row in answer.json()["rows"]}
        counted: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0), Decimal(0)])
        for row in sums:
            for place, name in enumerate(("calls", "input_tokens", "cost_usd")):
                counted[row[column]][place] += Decimal(row[name] or 0)
        assert {name: [float(value) for value in values] for name, values in counted.items()} == {
            name: [row["calls"], row["inputTokens"], row["costUsd"] or 0.0] for name, row in rest.items()
        }
    total = answer.json()["total"]
    assert len(single) == total["calls"] == sum(int(row["calls"]) for row in sums)
    assert sum(row["cost_usd"] == "" for row in single) == total["unknownCostCalls"] > 0
    assert float(sum(Decimal(row["cost_usd"] or 0) for row in single)) == total["costUsd"]
    assert len({row["call_id"] for row in single}) == len(single)
    assert [row["at_utc"] for row in single] == sorted(row["at_utc"] for row in single)
    everybody = await rows_of(idle_service, "kind=calls&period=30d&tenant=all")
    assert {row["call_id"] for row in everybody} == {row["call_id"] for row in single}


async def test_names_that_look_like_formulas_are_text(idle_service: Serving, pipeline: Pipeline) -> None:
    owner = idle_service.service.operator
    names = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        " =1",
        '=HYPERLINK("http://x","y")',
        "plain, with comma",
        "a\nb",
    ]
    for name in names:
        await make_calls(owner, pipeline.tenant_id, 3, pipeline_id=pipeline.id, user=name)
    cells = [row["user_id"] for row in await rows_of(idle_service, "kind=calls&period=7d") if row["user_id"]]
    assert sorted(cells) == sorted(name if name[0] in "pa" else f"'{name}" for name in names)


async def test_many_calls_of_one_moment_are_all_written_and_nothing_is_a_file_too(
    idle_service: Serving, pipeline: Pipeline
) -> None:
    assert await rows_of(idle_service, "kind=calls") == await rows_of(idle_service, "kind=sums") == []
    owner = idle_service.service.operator
    await make_calls(owner, pipeline.tenant_id, PAGE * 2, pipeline_id=pipeline.id, seconds=0)
    assert len(await rows_of(idle_service, "kind=calls&period=7d")) == PAGE * 2


async def test_what_cannot_be_read_is_refused_and_not_a_file(idle_service: Serving) -> None:
    async with client_at(idle_service.address) as client:
        for query in ("zone=Nowhere", "period=days&from=x", "kind=all", "period=century"):
            answer = await client.get(f"/usage.csv?{query}")
            assert answer.status_code == 422
            assert "text/html" in answer.headers["content-type"]
