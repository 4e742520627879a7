"""Ctrl-C keeps what is done, says so, and a later run pays for the rest only."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psycopg

from tests.support.commands import CommandLine
from tests.support.provider import start_provider


def test_an_interrupted_run_ends_in_order_and_is_not_paid_twice(database: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(60):
        (corpus / f"{number}.txt").write_text(
            "\n\n".join(f"{number} {i} " + " ".join(f"w{number}{i}{k}" for k in range(60)) for i in range(6))
        )
    with start_provider(dimensions=32, latency_ms=200) as provider:
        command = CommandLine(tmp_path / "data", database, EMBEDMILL_CALLS_IN_FLIGHT="2")
        command.run(
            "pipeline", "create", "counted", "--model", "stand-in", "--base-url", provider.base_url,
            "--dimensions", "32", "--max-inputs-per-call", "10",
        )  # fmt: skip
        running = command.start("ingest", str(corpus), "-p", "counted", "--json")
        deadline = time.monotonic() + 60
        while provider.stats()["calls_paid"] < 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
        assert running.returncode == 130, err
        interrupted = json.loads(out)
        assert interrupted["interrupted"] is True
        assert interrupted["embedded_chunks"] > 0
        assert interrupted["embedded_chunks"] == provider.stats()["inputs_paid"], "what was paid is kept"
        status = command.json("status")
        assert status["queue"]["processing"] == 0, "nothing is left leased"
        after = command.json("ingest", str(corpus), "-p", "counted")
        assert after["coverage_percent"] == 100.0
        assert provider.stats()["most_paid_for_one_input"] == 1


def test_an_ingest_that_builds_its_indexes_ends_at_once_and_leaves_them_to_the_next(
    database: str, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(100):
        (corpus / f"{number}.md").write_text(
            "\n\n".join(f"# {number} {i}\n\nOf {number} {i}." for i in range(12))
        )
    indexes = (
        "SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        " WHERE c.relname ~ '^vectors_[0-9]+_(documents|hnsw)$'"
    )
    with (
        start_provider(dimensions=32) as provider,
        psycopg.connect(database) as older,
        psycopg.connect(database, autocommit=True) as watching,
    ):
        command = CommandLine(tmp_path / "data", database)
        command.run(
            "pipeline", "create", "counted", "--model", "stand-in", "--base-url", provider.base_url,
            "--dimensions", "32", "--chunk-tokens", "16", "--chunk-overlap", "0",
        )  # fmt: skip
        older.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        older.execute("SELECT 1")  # a concurrent build waits for snapshots that are older than it
        running = command.start("ingest", str(corpus), "-p", "counted", "--json")
        deadline = time.monotonic() + 60
        while not watching.execute(indexes).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert command.json("status")["queue"]["pending"] == 0, "they are not begun before all is embedded"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
        assert running.returncode == 130, err
        assert json.loads(out)["coverage_percent"] == 100.0
        older.rollback()
        command.json("ingest", str(corpus), "-p", "counted")
        assert watching.execute(indexes).fetchall() == [(True,), (True,)]
