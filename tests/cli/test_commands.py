"""The command line's manners: help, versions, wrong usage, sentences instead of tracebacks."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from embedmill.database.psql import find_psql
from embedmill.errors import ConfigurationError
from tests.support.commands import CommandLine


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def test_help_lists_every_command_and_needs_no_database(tmp_path: Path) -> None:
    broken = CommandLine(tmp_path, "postgresql://127.0.0.1:1/none")
    text = broken.run("--help").stdout
    for name in ("ingest", "search", "status", "worker", "doctor", "pipeline", "db", "model"):
        assert f"\n  {name} " in text
        broken.run(name, "--help")
    assert broken.run("--version").stdout.startswith("embedmill ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ingest", "/no/such/path"], "does not exist"),
        (["ingest", ".", "-p", "nobody"], "there is no pipeline 'nobody'; there are: default"),
        (["search", "x", "-p", "nobody"], "there is no pipeline"),
        (["search", ""], "the query is empty"),
        (["pipeline", "show", "nobody"], "there is no pipeline"),
        (["pipeline", "create", "A B", "--provider", "local", "--model", "all-MiniLM-L6-v2"], "cannot name"),
        (["pipeline", "create", "default", "--provider", "local", "--model", "all-MiniLM-L6-v2"], "exists already"),
        (["pipeline", "create", "p", "--provider", "cohere", "--model", "m", "--dimensions", "3"], "no provider"),
        (["pipeline", "create", "p", "--model", "never-heard-of"], "say --dimensions"),
        (["pipeline", "create", "p", "--model", "text-embedding-3-large"], "at most 2000 dimensions of vector"),
        (["pipeline", "create", "p", "--provider", "local", "--model", "all-MiniLM-L6-v2", "--chunk-tokens", "512"],
         "at most 256 tokens"),
        (["pipeline", "create", "p", "--provider", "local", "--model", "all-MiniLM-L6-v2", "--chunk-overlap", "200"],
         "at most half"),
        (["pipeline", "create", "p", "--provider", "local", "--model", "all-MiniLM-L6-v2", "--language", "klingon"],
         "no text search configuration"),
        (["pipeline", "create", "p", "--model", "text-embedding-3-small", "--api-key-env", "HOME"], "API_KEY"),
        (["pipeline", "create", "p", "--model", "text-embedding-3-small", "--base-url", "ftp://x"], "http"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_sentence(command: CommandLine, arguments: list[str], said: str) -> None:
    done = command.run(*arguments, status=1)
    assert done.stderr.startswith("embedmill: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_psql_opens_the_database_and_shows_no_password(tmp_path: Path, database: str) -> None:
    command = CommandLine(tmp_path / "data", database)
    asked = "SELECT current_database(), count(*) FROM embedmill.embedding_queue"
    name = conninfo_to_dict(database)["dbname"]
    assert command.run("db", "psql", "-XAtc", asked).stdout == f"{name}|0\n"
    assert "does not exist" in command.run("db", "psql", "-Xc", "TABLE nowhere", status=1).stderr
    with_password = CommandLine(tmp_path / "data", make_conninfo(database, **{"password": "of no account"}))
    seen = with_password.run("db", "psql", "-XAt", "-c", "\\! ps -ww -o args= -p $PPID").stdout
    assert f"dbname={name}" in seen
    assert "of no account" not in seen


def test_psql_is_that_of_the_embedded_server_where_there_is_no_other(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "pginstall" in find_psql()
    monkeypatch.setattr("embedmill.database.psql.WHEEL", "no_such_wheel")
    with pytest.raises(ConfigurationError, match="postgresql-client"):
        find_psql()


def test_a_wrong_setting_names_its_variable(database: str, tmp_path: Path) -> None:
    for name, value in (("EMBEDMILL_CALLS_IN_FLIGHT", "many"), ("EMBEDMILL_LOG_LEVEL", "loud")):
        command = CommandLine(tmp_path / "data", database, **{name: value})
        assert name in command.run("status", status=1).stderr


def test_a_pipeline_is_made_listed_and_shown_with_its_published_price(command: CommandLine) -> None:
    made = command.json(
        "pipeline", "create", "papers", "--model", "text-embedding-3-small", "--storage", "halfvec",
        "--calls-per-minute", "600",
    )  # fmt: skip
    assert made["dimensions"] == 1536
    assert made["price_per_million_tokens"] == 0.02
    assert made["calls_per_minute"] == 600
    assert [pipeline["name"] for pipeline in command.json("pipeline", "list")] == ["default", "papers"]
    assert {**command.json("pipeline", "show", "papers"), "generations": None} == {
        **made,
        "generations": None,
    }
    unknown = command.json(
        "pipeline",
        "create",
        "mine",
        "--model",
        "m",
        "--dimensions",
        "8",
        "--base-url",
        "http://127.0.0.1:1/v1",
    )
    assert unknown["price_per_million_tokens"] is None


def test_doctor_says_what_is_well_and_what_is_not(database: str, tmp_path: Path) -> None:
    well = CommandLine(tmp_path / "data", database).json("doctor")
    assert all(check["ok"] for check in well), well
    assert {check["check"] for check in well} >= {"disk", "database", "parsers", "provider of default"}
    ill = CommandLine(tmp_path / "data", "postgresql://127.0.0.1:1/none", EMBEDMILL_WORKERZ="3")
    checks = {check["check"]: check for check in ill.json("doctor", status=1)}
    assert not checks["database"]["ok"]
    assert "EMBEDMILL_WORKERZ" in checks["settings"]["finding"]


def test_a_worker_works_off_what_waits_and_ends(command: CommandLine) -> None:
    done = command.run("worker", "--until-empty")
    assert "worker stopped" in done.stdout
    assert command.json("status")["workers"][0]["status"] == "stopped"


def test_a_source_that_no_path_is_equal_to_says_how_parts_are_named(command: CommandLine) -> None:
    said = command.run("search", "tide", "--mode", "text", "--source", "errors.md").stdout
    assert "'*errors.md*'" in said
    assert "'*errors" not in command.run("search", "tide", "--mode", "text", "--source", "*errors.md").stdout


def test_a_search_whose_provider_is_away_says_what_works_without_it(command: CommandLine) -> None:
    command.run(
        *("pipeline", "create", "p", "--model", "stand-in", "--dimensions", "16"),
        *("--base-url", "http://127.0.0.1:9/v1"),
    )
    for mode in ("hybrid", "vector"):
        said = command.run("search", "tide", "--pipeline", "p", "--mode", mode, status=1).stderr
        assert said.endswith(". By words it works without the provider: --mode text\n")
        assert said.count("\n") == 1
    assert "Nothing found" in command.run("search", "tide", "--pipeline", "p", "--mode", "text").stdout
