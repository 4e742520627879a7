"""`embedmill ingest` where the queue is off, refuses items, or is paused, or the budget used up: it says so, and loses
nothing."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.commands import CommandLine
from tests.support.provider import start_provider

REFUSE = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no more items today'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON embedmill.embedding_queue FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    for number in range(4):
        (made / f"{number}.txt").write_text(f"Passage number {number} of the mill's papers.\n" * 20)
    return made


@pytest.fixture
def command(database: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "data", database)


def create_pipeline(command: CommandLine, base_url: str) -> None:
    command.run(
        "pipeline", "create", "p", "--model", "stand-in", "--base-url", base_url, "--dimensions", "16"
    )


@pytest.mark.parametrize("why", ["off", "refuses"])
def test_files_are_embedded_by_the_command_itself_and_it_says_why(
    command: CommandLine, folder: Path, database: str, why: str
) -> None:
    with start_provider(dimensions=16) as provider:
        create_pipeline(command, provider.base_url)
        if why == "off":
            command.run("config", "set", "queue_enabled", "false")
        else:
            with psycopg.connect(database) as connection:
                connection.execute(REFUSE)
        told = command.run("ingest", str(folder), "--pipeline", "p").stdout
        assert "4 documents were embedded by this command itself, without the queue" in told
        assert ("queue_enabled is false" if why == "off" else "no more items today") in told
        assert "coverage  100%" in told
        again = command.json("ingest", str(folder), "--pipeline", "p")
        assert (again["calls"], again["direct_documents"], again["coverage_percent"]) == (0, 0, 100.0)
        assert provider.stats()["most_paid_for_one_input"] == 1


def test_a_paused_pipeline_is_not_waited_for_and_its_work_is_kept(command: CommandLine, folder: Path) -> None:
    with start_provider(dimensions=16) as provider:
        create_pipeline(command, provider.base_url)
        command.run("queue", "pause", "--pipeline", "p")
        told = command.run("ingest", str(folder), "--pipeline", "p", status=1).stdout
        assert "`embedmill queue resume --pipeline p`" in told
        assert provider.stats()["calls"] == 0
        command.run("queue", "resume", "--pipeline", "p")
        command.run("worker", "--until-empty")
        assert command.json("ingest", str(folder), "--pipeline", "p")["coverage_percent"] == 100.0
        assert provider.stats()["most_paid_for_one_input"] == 1


def test_a_budget_that_is_used_up_is_not_waited_for_and_the_rest_is_kept(
    command: CommandLine, folder: Path
) -> None:
    with start_provider(dimensions=16) as provider:
        command.run(
            *("pipeline", "create", "p", "--model", "stand-in", "--base-url", provider.base_url),
            *("--dimensions", "16", "--price-per-million-tokens", "1000000"),
        )
        command.run("budget", "set", "0.01")
        told = command.run("ingest", str(folder), "--pipeline", "p", status=1).stdout
        assert "the budget is used up" in told
        assert "`embedmill budget set AMOUNT`" in told
        assert provider.stats()["calls"] == 0
        command.run("budget", "set", "100000")
        command.run("worker", "--until-empty")
        assert command.json("ingest", str(folder), "--pipeline", "p")["coverage_percent"] == 100.0
        assert provider.stats()["most_paid_for_one_input"] == 1
