"""`embedmill usage`: the ledger summed, for people and for programs."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.commands import CommandLine

CALLS = """
INSERT INTO embedmill.llm_usage_log
    (tenant_id, created_at, pipeline_id, call_id, usage_type, action, provider, model, inputs, input_tokens, latency_ms,
     cost_usd, error)
SELECT 1, now() - days * interval '1 day', 1, gen_random_uuid(), kind, 'embed', 'openai', model, 3, 1500, 20, cost,
       error
  FROM (VALUES (0, 'query', 'small', 0.5, NULL), (0, 'query', 'mine', NULL, NULL), (1, 'shard', 'small', 2.25, 'cut'),
               (400, 'shard', 'small', 100, NULL)) AS calls (days, kind, model, cost, error)
"""


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(CALLS)
    return CommandLine(tmp_path / "data", database)


def test_people_see_sums_and_what_is_unknown(command: CommandLine) -> None:
    shown = command.run("usage").stdout.splitlines()
    assert shown[0].split() == ["CALLS", "FAILED", "INPUTS", "TOKENS", "COST", "AVERAGE", "TYPE"]
    assert shown[1].split("  ")[-1] == "query"
    assert "$0.50 + unknown of 1 call" in shown[1]
    assert "$2.25" in shown[2]
    assert shown[3].endswith("all")
    assert "4,500" in shown[3]
    by_model = command.run("usage", "--by", "model").stdout
    assert "unknown  " in by_model
    assert "openai/mine" in by_model
    assert (
        "$102.75 + unknown of 1 call"
        in command.run("usage", "--since", "2000-01-01", "--by", "pipeline").stdout
    )
    assert (
        "no provider calls" in command.run("usage", "--since", "2000-01-01", "--until", "2000-01-02").stdout
    )


def test_programs_get_json(command: CommandLine) -> None:
    for by in ("type", "model", "pipeline", "day", "user", "job", "tenant"):
        summary = command.json("usage", "--by", by, "--since", "1000d", "--time-zone", "Europe/Berlin")
        assert sum(row["calls"] for row in summary["rows"]) == summary["total"]["calls"] == 4
        assert summary["total"]["unknown_cost_calls"] == 1
    assert summary["rows"][0]["group"] == "default"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--since", "yesterday"], 2, "a day such as 2026-05-01"),
        (["--since", "2026-02-30"], 2, "no day"),
        (["--until", "9999-12-31"], 2, "no day"),
        (["--since", "2026-02-03", "--until", "2026-02-01"], 2, "lies before"),
        (["--time-zone", "Nowhere/Atall"], 2, "no time zone"),
        (["--time-zone", "../../etc/passwd"], 2, "no time zone"),
        (["--by", "weekday"], 2, "'day'"),
        (["--since", "999999d"], 2, "calendars"),
    ],
)
def test_a_mistake_is_told(command: CommandLine, arguments: list[str], status: int, said: str) -> None:
    done = command.run("usage", *arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
