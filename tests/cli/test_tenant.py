"""`embedmill tenant`: the service's limits of a tenant, set, shown, taken back, and in the audit log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import CommandLine


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def test_limits_of_the_service_are_set_shown_and_taken_back(command: CommandLine) -> None:
    made = command.json("tenant", "create", "acme", "--requests-per-minute", "600", "--max-file-mb", "50")
    assert (made["requests_per_minute"], made["max_file_bytes"]) == (600, 50 * 1024 * 1024)
    assert made["max_staged_jobs"] is None
    changed = command.run(
        "tenant", "set", "acme", "--max-file-mb", "default", "--max-staged-jobs", "7"
    ).stdout
    assert "600 requests a minute, 7 staged jobs" in changed
    assert "files to" not in changed
    listed = {one["slug"]: one for one in command.json("tenant", "list")}
    assert listed["default"]["requests_per_minute"] is None
    assert listed["acme"]["weight"] == 1, "what was not named stays"
    log = command.run("config", "log").stdout
    assert '"max_staged_jobs": 7' in log


def test_weight_and_limits_change_together(command: CommandLine) -> None:
    changed = command.json("tenant", "set", "default", "--weight", "3", "--requests-per-minute", "5")
    assert (changed["weight"], changed["requests_per_minute"]) == (3, 5)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["set", "default"], 2, "say what to change"),
        (["set", "default", "--max-file-mb", "0"], 2, "a number from 1, or default"),
        (["set", "default", "--max-staged-jobs", "none"], 2, "a number from 1, or default"),
        (["set", "nobody", "--max-staged-jobs", "1"], 1, "there are: default"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    command: CommandLine, arguments: list[str], status: int, said: str
) -> None:
    done = command.run("tenant", *arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
