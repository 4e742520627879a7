"""`embedmill budget`: set, shown with what was spent, reached, removed; of a tenant and of a job."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.commands import CommandLine

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def spend(url: str, usd: str) -> None:
    """A row of the ledger, as a call writes it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO embedmill.llm_usage_log (tenant_id, call_id, usage_type, action, provider, model, inputs, "
            "    input_tokens, latency_ms, cost_usd) "
            "VALUES (1, gen_random_uuid(), 'query', 'embed', 'test', 'test', 1, 1, 1, %s)",
            (usd,),
        )


def test_a_budget_is_set_shown_changed_and_removed(command: CommandLine, database: str) -> None:
    assert "tenant default has no budget" in command.run("budget", "show").stdout
    assert command.run("budget", "show", "--json").stdout.strip() == "null"
    spend(database, "3")
    assert command.run("budget", "set", "20").stdout == "tenant default: $3.00 of $20.00 a month spent\n"
    changed = command.json("budget", "set", "$7.50", "--period", "total")
    assert (changed["limit_usd"], changed["spent_usd"], changed["period"]) == ("7.50", "3", "total")
    assert command.run("budget", "show").stdout == "tenant default: $3.00 of $7.50 spent\n"
    assert "@" in command.run("config", "log").stdout.splitlines()[0], "the audit log names who did it"
    assert command.json("budget", "remove") == {"removed": True}
    assert command.run("budget", "remove").stdout == "tenant default had no budget\n"


@pytest.mark.parametrize("amount", ["1e400", "1000000000.01", "nan", "much"])
def test_what_is_no_amount_is_refused(command: CommandLine, amount: str) -> None:
    assert "a budget is an amount of US dollars" in command.run("budget", "set", amount, status=1).stderr
    assert "has no budget" in command.run("budget", "show").stdout


def test_a_budget_that_is_used_up_says_how_work_goes_on(command: CommandLine, database: str) -> None:
    command.run("budget", "set", "2")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE embedmill.budgets SET spent_usd = 2, reached_at = now()")
    said = command.run("budget", "show").stdout
    assert "reached at" in said
    assert "`embedmill budget set AMOUNT` raises it or the next month begins" in said


def test_a_tenants_budget_is_its_own(command: CommandLine) -> None:
    command.run("tenant", "create", "acme")
    command.run("budget", "set", "5")
    command.environment["EMBEDMILL_TENANT"] = "acme"
    assert "tenant acme has no budget" in command.run("budget", "show").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["set", "much"], 1, "an amount of US dollars, not 'much'"),
        (["set", "nan"], 1, "from 0 to 1,000,000,000"),
        (["set", "--", "-1"], 1, "from 0 to 1,000,000,000"),
        (["set"], 2, "AMOUNT"),
        (["set", "1", "--period", "week"], 2, "month"),
        (["set", "1", "--period", "month", "--job", NOBODY], 2, "leave out --period"),
        (["set", "1", "--job", NOBODY], 1, NOBODY),
        (["show", "--job", NOBODY], 1, f"there is no ingestion job {NOBODY}"),
        (["remove", "--job", NOBODY], 1, f"there is no ingestion job {NOBODY}"),
        (["show", "--job", "7"], 2, "UUID"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    command: CommandLine, arguments: list[str], status: int, said: str
) -> None:
    done = command.run("budget", *arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
