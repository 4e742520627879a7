"""`embedmill config`, `quota` and `tenant`: shown, changed, refused; every change in the audit log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import CommandLine


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def test_a_setting_is_shown_changed_and_put_back(command: CommandLine) -> None:
    assert command.run("config", "get", "batch_size").stdout == "500\n"
    assert command.run("config", "set", "batch_size", "200").stdout.startswith("batch_size: 500 -> 200\n")
    assert "as it was" in command.run("config", "set", "batch_size", "200").stdout
    listed = command.run("config", "list").stdout
    assert "200   (default: 500)" in listed
    assert "    changed 20" in listed
    (setting,) = [one for one in command.json("config", "list") if one["key"] == "batch_size"]
    assert (setting["value"], setting["default"], "@" in setting["actor"]) == (200, 500, True)
    assert "200 -> 500" in command.run("config", "reset", "batch_size").stdout
    log = command.run("config", "log").stdout.splitlines()
    assert [line.split("  ")[2] for line in log] == [
        "config.set batch_size: 200 -> 500",
        "config.set batch_size: 500 -> 200",
    ]


def test_resetting_all_goes_in_an_order_that_the_bounds_allow(command: CommandLine) -> None:
    for key, value in (
        ("max_concurrent_workers", "9"),
        ("min_concurrent_workers", "8"),
        ("max_retries", "0"),
    ):
        command.run("config", "set", key, value)
    changed = {one["key"]: one["new"] for one in command.json("config", "reset", "--all")}
    assert changed == {"max_concurrent_workers": 3, "min_concurrent_workers": 1, "max_retries": 3}
    assert "nothing to do" in command.run("config", "reset", "--all").stdout


def test_weights_are_set_as_json(command: CommandLine) -> None:
    command.run("config", "set", "priority_weights", '{"high": 9, "medium": 2, "low": 1}')
    assert command.json("config", "get", "priority_weights")["value"] == {"high": 9, "medium": 2, "low": 1}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["config", "set", "batch_size", "0"], 1, "a whole number from 1 to 10000"),
        (["config", "set", "batch_size", "many"], 1, "a whole number from 1 to 10000"),
        (["config", "set", "queue_enabled", "yes"], 1, "it is true or false"),
        (["config", "set", "nobody", "1"], 1, "there is no setting nobody; there are: alert_after_seconds, "),
        (["config", "get", "nobody"], 1, "there is no setting 'nobody'; there are"),
        (["config", "set", "min_concurrent_workers", "9"], 1, "set the other one first"),
        (["config", "reset"], 2, "say --all"),
        (["quota", "set", "default/default"], 2, "say --calls-per-minute"),
        (["quota", "set", "nobody", "--calls-per-minute", "5"], 1, "there is no quota key 'nobody'; there are"),
        (["quota", "set", "default/default", "--calls-per-minute", "0"], 2, "unlimited or default"),
        (["quota", "set", "default/default", "--calls-per-minute", "default"], 1, "give the second one a number"),
        (["tenant", "set", "nobody", "--weight", "2"], 1, "there is no tenant 'nobody'; there are: default"),
        (["tenant", "set", "default"], 2, "say what to change"),
        (["tenant", "set", "default", "--weight", "0"], 2, "not in the range"),
        (["tenant", "create", "Acme Corp"], 1, "cannot name a tenant"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_the_next_step(
    command: CommandLine, arguments: list[str], status: int, said: str
) -> None:
    done = command.run(*arguments, status=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_pipelines_share_a_quota_and_openai_has_the_defaults(command: CommandLine) -> None:
    model = ("--model", "text-embedding-3-small")
    first = command.json("pipeline", "create", "first", *model)
    assert (first["calls_per_minute"], first["tokens_per_minute"]) == (60, 100_000)
    assert first["uses_default_quota"]
    command.run("config", "set", "api_quota_per_minute", "75")
    assert command.json("pipeline", "show", "first")["calls_per_minute"] == 75
    assert "75 (the configuration's default)" in command.run("pipeline", "show", "first").stdout
    command.run("pipeline", "create", "second", *model, "--quota-key", first["quota_key"])
    limits = ("--calls-per-minute", "5")
    refused = command.run(
        "pipeline", "create", "x", *model, "--quota-key", first["quota_key"], *limits, status=1
    )
    assert "embedmill quota set default/first" in refused.stderr
    own = command.json("pipeline", "create", "own", *model, *limits, "--quota-key", "team a")
    assert (own["calls_per_minute"], own["tokens_per_minute"], own["quota_key"]) == (5, None, "team a")
    proxied = ("--base-url", "http://127.0.0.1:1/v1")
    proxy = command.json("pipeline", "create", "proxy", *model, *proxied)
    assert (proxy["calls_per_minute"], proxy["tokens_per_minute"]) == (None, None)
    assert "unlimited" in command.run("pipeline", "show", "proxy").stdout
    command.run("quota", "set", first["quota_key"], "--calls-per-minute", "500")
    shared = next(one for one in command.json("quota", "list") if one["quota_key"] == first["quota_key"])
    assert (shared["calls_per_minute"], shared["tokens_per_minute"]) == (500, 100_000)
    assert shared["pipelines"] == ["first", "second"]
    assert "0 of 500 used within the last minute\n" in command.run("quota", "list").stdout


def test_a_tenant_is_made_and_changed(command: CommandLine) -> None:
    made = command.run("tenant", "create", "acme", "--weight", "2", "--max-processing-items", "5").stdout
    assert "EMBEDMILL_TENANT=acme embedmill pipeline create" in made
    changed = command.json("tenant", "set", "acme", "--max-processing-items", "none")
    assert (changed["weight"], changed["max_processing_items"]) == (2.0, None)
    assert [one["slug"] for one in command.json("tenant", "list")] == ["acme", "default"]
    assert "acme" in command.run("tenant", "list").stdout


def test_a_queue_that_is_off_shows_in_the_status(command: CommandLine) -> None:
    command.run("config", "set", "queue_enabled", "false")
    assert "off: queue_enabled is false" in command.run("status").stdout
    assert not command.json("status")["held_up"]["queue_enabled"]
