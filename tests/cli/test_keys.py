"""`embedmill keys`: a key is shown once, listed without itself, and revoked."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from tests.support.commands import CommandLine


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def test_a_key_is_made_listed_and_revoked(command: CommandLine, tmp_path: Path) -> None:
    assert "no keys" in command.run("keys", "list").stdout
    made = command.run("keys", "create", "--tenant", "default", "--role", "writer", "--expires-in", "90d")
    key = made.stdout.strip()
    assert re.fullmatch(r"em_[A-Za-z0-9_-]{43}", key), "standard output has the key alone, for scripts"
    assert key not in made.stderr
    assert stat.S_IMODE((tmp_path / "data" / "pepper").stat().st_mode) == 0o600
    listed = command.run("keys", "list").stdout
    assert key not in listed
    assert key[:11] in listed
    assert re.search(r"default +writer .* active .* never +writer", listed)
    (one,) = command.json("keys", "list")
    assert (one["role"], one["state"], one["tenant"], "@" in one["created_by"]) == (
        "writer",
        "active",
        "default",
        True,
    )
    assert "revoked: " in command.run("keys", "revoke", one["id"]).stdout
    assert "revoked before" in command.run("keys", "revoke", one["id"]).stdout
    assert command.json("keys", "list", "--tenant", "default")[0]["state"] == "revoked"
    log = command.run("config", "log").stdout
    assert f"key.create {one['id']}" in log
    assert f"key.revoke {one['id']}" in log
    assert key not in log


def test_programs_get_it_as_json(command: CommandLine) -> None:
    made = command.json("keys", "create", "-t", "default", "--role", "reader", "--name", "nightly")
    assert made["secret"].startswith(made["key"]["prefix"])
    assert (made["key"]["name"], made["key"]["expires_at"]) == ("nightly", None)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["create", "--tenant", "nobody", "--role", "reader"], 1, "there are: default"),
        (["create", "--tenant", "default"], 2, "--role"),
        (["create", "--role", "reader"], 2, "--tenant"),
        (["create", "--tenant", "default", "--role", "root"], 2, "admin"),
        (["create", "--tenant", "default", "--role", "reader", "--expires-in", "soon"], 2, "90s, 10m"),
        (
            ["create", "--tenant", "default", "--role", "reader", "--expires-in", "0d"],
            1,
            "more than 0 seconds",
        ),
        (["create", "--tenant", "default", "--role", "reader", "--name", ""], 1, "name"),
        (["revoke", "xyz"], 2, "UUID"),
        (["revoke", "00000000-0000-0000-0000-000000000000"], 1, "`embedmill keys list`"),
        (["list", "--tenant", "nobody"], 1, "there are: default"),
    ],
)
def test_a_mistake_is_told_with_the_next_step(
    command: CommandLine, arguments: list[str], status: int, said: str
) -> None:
    done = command.run("keys", *arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
