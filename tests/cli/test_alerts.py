"""`embedmill alerts`: what is open with what to do next, what was, and that somebody has seen it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.commands import CommandLine

RAISE = """
INSERT INTO embedmill.alerts
    (kind, tenant_id, subject, severity, message, began_at, raised_at, seen_at, resolved_at)
SELECT a.kind, a.tenant_id, a.subject, a.severity, a.message, now(), now(), now(), a.resolved_at
  FROM (VALUES
    (1, 'no_workers', NULL, '', 'critical', 'no worker is alive: start one with `embedmill worker`', NULL),
    (2, 'budget_near', 1, 'tenant', 'warning', '8 of 10 USD are spent', NULL),
    (3, 'stuck_queue', 1, 'default', 'critical', 'work waits', now())
  ) AS a (n, kind, tenant_id, subject, severity, message, resolved_at) ORDER BY a.n
"""


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(RAISE)
    return CommandLine(tmp_path / "data", database)


def test_what_is_open_is_shown_with_what_to_do_and_the_rest_on_demand(command: CommandLine) -> None:
    shown = command.run("alerts").stdout.splitlines()
    assert shown[0].startswith("1  critical  no_workers  raised ")
    assert shown[1] == "    no worker is alive: start one with `embedmill worker`"
    assert shown[2].startswith("2  warning  budget_near (tenant)  raised ")
    assert len(shown) == 4
    assert "3  critical  stuck_queue (default)  resolved 20" in command.run("alerts", "--all").stdout
    assert [alert["kind"] for alert in command.json("alerts")] == ["no_workers", "budget_near"]


def test_status_says_that_alerts_are_open_until_somebody_has_seen_them(command: CommandLine) -> None:
    shown = command.run("status").stdout.splitlines()
    assert shown[:2] == [
        "alerts    1 critical, 1 warning: `embedmill alerts`",
        "          no worker is alive: start one with `embedmill worker`",
    ]
    assert "acknowledged by" in command.run("alerts", "acknowledge", "1", "--for", "4h").stdout
    silent = command.json("alerts", "acknowledge", "2")
    assert (silent["silenced_until"], "@" in silent["acknowledged_by"]) == (None, True)
    assert not command.run("status").stdout.startswith("alerts")
    assert command.json("status")["alerts"]["acknowledged"] == 2
    shown = command.run("alerts").stdout.splitlines()
    assert "silent until 20" in shown[0]
    assert shown[2].endswith("silent until it is resolved")


def test_what_cannot_be_acknowledged_is_told_in_a_sentence(command: CommandLine) -> None:
    gone = command.run("alerts", "acknowledge", "77", status=1)
    assert gone.stderr == "embedmill: there is no alert 77: `embedmill alerts --all` lists them\n"
    over = command.run("alerts", "acknowledge", "3", status=1)
    assert over.stderr == "embedmill: alert 3 is resolved: there is nothing to acknowledge\n"
    for wrong in (("0",), ("x",), ("1", "--for", "soon"), ("1", "--for", "-1h")):
        command.run("alerts", "acknowledge", *wrong, status=2)
    assert "at most a year" in command.run("alerts", "acknowledge", "1", "--for", "999d", status=1).stderr
