"""`embedmill pipeline migrate`, `switch`, `rollback`, `prune`: what a person sees, how they end, and a kill."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.commands import CommandLine
from tests.support.provider import RunningProvider, start_provider


@pytest.fixture
def provider() -> Iterator[RunningProvider]:
    with start_provider(dimensions=16, salt_by_model=True) as running:
        yield running


@pytest.fixture
def command(database: str, tmp_path: Path, provider: RunningProvider) -> CommandLine:
    """A pipeline `p` with a few files, embedded; a million tokens cost a hundred dollars."""
    files = tmp_path / "files"
    files.mkdir()
    for number in range(6):
        text = "\n\n".join(
            f"Passage {part} of file {number} tells of the mill and its wheel." for part in range(20)
        )
        (files / f"{number}.txt").write_text(text)
    line = CommandLine(tmp_path / "data", database)
    line.run(
        *(
            "pipeline",
            "create",
            "p",
            "--model",
            "first",
            "--base-url",
            provider.base_url,
            "--dimensions",
            "16",
        ),
        *("--chunk-tokens", "16", "--chunk-overlap", "0", "--max-inputs-per-call", "5"),
        *("--price-per-million-tokens", "100"),
    )
    assert line.json("ingest", str(files), "--pipeline", "p")["coverage_percent"] == 100
    provider.forget_counts()
    return line


SECOND = ("pipeline", "migrate", "p", "--model", "second", "--dimensions", "16")
OPTIONS = ("--max-inputs-per-call", "5")


def test_a_migration_from_its_beginning_to_the_prune(command: CommandLine, provider: RunningProvider) -> None:
    done = command.json(*SECOND, *OPTIONS, "--price", "200", "--samples", "10")
    assert (done["generation"], done["model"], done["stage"], done["coverage"]) == (2, "second", "live", 1.0)
    assert done["comparison"]["samples"] > 0
    assert float(done["cost_usd"]) == pytest.approx(done["tokens"] * 200 / 1_000_000)
    assert provider.stats()["most_paid_for_one_input"] == 1
    shown = command.json("pipeline", "show", "p")
    assert (shown["model"], shown["price_per_million_tokens"]) == ("second", 200)
    assert [(each["number"], each["stage"]) for each in shown["generations"]] == [(1, "kept"), (2, "live")]
    told = command.run("pipeline", "show", "p").stdout
    assert "  1  kept           first 16 (vector)" in told
    assert "of the ten nearest chunks" in told
    assert command.json("search", "the mill", "--pipeline", "p")
    assert "generation 1 (first) is live" in command.run("pipeline", "rollback", "p").stdout
    assert "generation 2 (second) is live" in command.run("pipeline", "switch", "p").stdout
    assert "dropped generation 1 (first" in command.run("pipeline", "prune", "p").stdout
    assert "no generation to go back to" in command.run("pipeline", "rollback", "p", status=1).stderr
    assert command.json("search", "the mill", "--pipeline", "p")


def test_a_budget_ends_it_with_a_sentence_and_a_status_of_its_own(command: CommandLine) -> None:
    ended = command.run(*SECOND, *OPTIONS, "--price", "1000", "--budget-usd", "0.5", "--no-switch", status=3)
    assert "stopped: its budget of 0.5 USD is used up" in ended.stderr
    assert "it does not go on: its budget" in command.run("pipeline", "show", "p").stdout
    refused = command.run("pipeline", "switch", "p", status=1)
    assert "is not finished (its budget" in refused.stderr
    done = command.json("pipeline", "migrate", "p", "--budget-usd", "100", "--no-switch", "--samples", "0")
    assert (done["stage"], done["coverage"], done["comparison"]) == ("built", 1.0, None)
    assert command.json("pipeline", "migrate", "p")["stage"] == "live"


def test_a_build_can_be_cancelled(command: CommandLine, database: str) -> None:
    command.run(*SECOND, *OPTIONS, "--price", "1000", "--budget-usd", "0.5", status=3)
    assert "dropped generation 2 (second" in command.run("pipeline", "migrate", "p", "--cancel").stdout
    assert len(command.json("pipeline", "show", "p")["generations"]) == 1
    assert "nothing is being built" in command.run("pipeline", "migrate", "p", status=1).stderr
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT count(*) FROM embedmill.embedding_queue").fetchall()
    assert rows == [(0,)]


def test_a_migration_that_is_killed_is_gone_on_with_and_paid_once(
    command: CommandLine, provider: RunningProvider
) -> None:
    provider.configure(latency_ms=100)
    process = command.start(*SECOND, *OPTIONS)
    deadline = time.monotonic() + 60
    while provider.stats()["inputs_paid"] < 20:
        assert time.monotonic() < deadline, "no call was made"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    in_flight = provider.stats()["inputs_paid"]
    provider.configure(latency_ms=0)
    shown = command.json("pipeline", "show", "p")["generations"][1]
    assert shown["stage"] == "building"
    assert shown["embedded"] < shown["chunks"]
    done = command.json("pipeline", "migrate", "p")
    assert (done["stage"], done["coverage"]) == ("live", 1.0)
    # What was on its way at the kill is paid again, and nothing else: at most the calls of that moment.
    again = provider.stats()["inputs_paid"] - provider.stats()["distinct_inputs_paid"]
    assert again <= min(in_flight, 8 * 5)


def test_a_mistake_is_told_in_one_sentence(database: str, tmp_path: Path) -> None:
    command = CommandLine(tmp_path / "data", database)
    server = "http://127.0.0.1:9/v1"
    command.run("pipeline", "create", "p", "--model", "first", "--base-url", server, "--dimensions", "16")
    for arguments, said in (
        (("migrate", "p"), "nothing is being built for pipeline 'p': say what to change"),
        (("migrate", "p", "--model", "first"), "is that already"),
        (("migrate", "p", "--model", "third"), "say --dimensions"),
        (("migrate", "p", "--chunk-tokens", "20", "--budget-usd", "1"), "a budget needs a price"),
        (("migrate", "p", "--chunk-tokens", "20", "--chunk-overlap", "15"), "at most half"),
        (("migrate", "p", "--cancel"), "nothing is being built"),
        (("switch", "p"), "has no next generation"),
        (("switch", "p", "--to", "7"), "there is no generation 7; there are: 1"),
        (("switch", "p", "--to", "1"), "is the live one already"),
        (("rollback", "p"), "no generation to go back to"),
        (("prune", "nobody"), "there is no pipeline 'nobody'"),
    ):
        done = command.run("pipeline", *arguments, status=1)
        assert said in done.stderr, arguments
        assert "Traceback" not in done.stderr


def test_a_table_with_a_column_needs_another_one_for_the_next_model(
    command: CommandLine, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as user:
        user.execute("CREATE TABLE jobs (id int PRIMARY KEY, title text, embedding vector(16))")
        user.execute("INSERT INTO jobs SELECT n, 'miller ' || n FROM generate_series(1, 8) n")
        command.run(
            *("table", "add", "jobs", "--content", "$title", "--into", "column", "embedding"),
            *("--pipeline", "p"),
        )
        command.run("worker", "--until-empty")
        filled = "SELECT count(embedding) FROM jobs"
        assert user.execute(filled).fetchone() == (8,)
        generations = "SELECT count(*) FROM embedmill.generations"
        before = user.execute(generations).fetchone()

        refused = command.run(*SECOND, *OPTIONS, status=1).stderr
        assert "ALTER TABLE public.jobs ADD COLUMN embedding_v2 vector(16)" in refused
        assert "--column public.jobs=embedding_v2" in refused
        for column, said in (
            ("public.jobs=embedding_v2", "has no column embedding_v2"),
            ("public.jobs=title", "cannot hold vectors of 16 dimensions: it is text"),
            ("public.jobs=embedding", "holds other vectors of embedmill"),
            ("public.other=embedding", "no table of that name has its vectors in a column"),
        ):
            refused = command.run(*SECOND, *OPTIONS, "--column", column, status=1).stderr
            assert said in refused
            assert "Traceback" not in refused
        assert "is not TABLE=COLUMN" in command.run(*SECOND, "--column", "jobs", status=2).stderr
        assert user.execute(generations).fetchone() == before

        user.execute("ALTER TABLE jobs ADD COLUMN embedding_v2 vector(16)")
        done = command.json(*SECOND, *OPTIONS, "--column", "jobs=embedding_v2", "--no-switch")
        assert (done["stage"], done["coverage"]) == ("built", 1.0)
        command.run("worker", "--until-empty")
        both = (
            "SELECT count(embedding), count(embedding_v2), count(*) FILTER (WHERE embedding = embedding_v2) "
            "FROM jobs"
        )
        assert user.execute(both).fetchone() == (8, 8, 0)
        live = "SELECT target_column FROM embedmill.table_sources"
        assert user.execute(live).fetchone() == ("embedding",)
        command.run("pipeline", "switch", "p")
        assert user.execute(live).fetchone() == ("embedding_v2",)
        assert command.json("search", "miller 3", "--pipeline", "p", "--mode", "vector")
        command.run("pipeline", "rollback", "p")
        assert user.execute(live).fetchone() == ("embedding",)
        assert user.execute(both).fetchone() == (8, 8, 0)
