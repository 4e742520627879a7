"""kill -9 of everything (the command, its parsers, PostgreSQL) at random moments of an ingest, then again until
it ends: nothing missing, nothing double, nothing beside the wrong text, and paid again at most what was in
flight when it was killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import psycopg
import pytest

from tests.support.embedded_processes import server_processes
from tests.support.provider import RunningProvider, start_provider, vector_for

EMBEDMILL = str(Path(sys.executable).with_name("embedmill"))
DIMENSIONS = 32
CALLS_IN_FLIGHT = 4
INPUTS_PER_CALL = 10


def write_corpus(folder: Path, files: int, chance: random.Random) -> None:
    words = [f"word{i}" for i in range(500)]
    for number in range(files):
        paragraphs = [" ".join(chance.choices(words, k=90)) + "." for _ in range(chance.randint(1, 9))]
        (folder / f"{number:03}.txt").write_text("\n\n".join(paragraphs))


def embedmill(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EMBEDMILL, *arguments],
        env=environment(data_dir),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def environment(data_dir: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EMBEDMILL_")}
    return {**kept, "EMBEDMILL_DATA_DIR": str(data_dir), "EMBEDMILL_CALLS_IN_FLIGHT": str(CALLS_IN_FLIGHT)}


def kill_everything(data_dir: Path, command: subprocess.Popen[bytes]) -> None:
    victims = [*family(command.pid), *server_processes(data_dir)]
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    command.wait(timeout=30)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it has started; nobody where it ends just now."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def read_all(data_dir: Path) -> list[tuple[str, str]]:
    url = embedmill(data_dir, "db", "url").stdout.strip()
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT text, embedding::text FROM embedmill.embeddings_counted").fetchall()


def create_pipeline(data_dir: Path, provider: RunningProvider) -> None:
    created = embedmill(
        data_dir, "pipeline", "create", "counted", "--model", "stand-in", "--base-url", provider.base_url,
        "--dimensions", str(DIMENSIONS), "--max-inputs-per-call", str(INPUTS_PER_CALL),
        "--price-per-million-tokens", "1",
    )  # fmt: skip
    assert created.returncode == 0, created.stderr


@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_in_flight_is_paid_more_than_once_more(tmp_path: Path) -> None:
    kills = int(os.environ.get("EMBEDMILL_TEST_KILLS", "4"))
    chance = random.Random(int(os.environ.get("EMBEDMILL_TEST_SEED", str(time.time_ns()))))
    corpus, data_dir = tmp_path / "corpus", tmp_path / "data"
    corpus.mkdir()
    write_corpus(corpus, 150, chance)
    with start_provider(dimensions=DIMENSIONS, latency_ms=150) as provider:
        create_pipeline(data_dir, provider)
        try:
            in_flight_at_kills = 0
            for _ in range(kills):
                command = subprocess.Popen(
                    [EMBEDMILL, "ingest", str(corpus), "--pipeline", "counted", "--json"],
                    env=environment(data_dir),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                try:
                    time.sleep(chance.uniform(0.5, 6.0))
                finally:
                    kill_everything(data_dir, command)
                in_flight_at_kills += CALLS_IN_FLIGHT * INPUTS_PER_CALL
            last = embedmill(data_dir, "ingest", str(corpus), "--pipeline", "counted", "--json")
            assert last.returncode == 0, last.stderr
            report = json.loads(last.stdout)
            assert report["coverage_percent"] == 100.0
            again = json.loads(
                embedmill(data_dir, "ingest", str(corpus), "--pipeline", "counted", "--json").stdout
            )
            assert again["calls"] == 0
            rows = read_all(data_dir)
        finally:
            embedmill(data_dir, "db", "stop")
        assert len(rows) == report["coverage_chunks"] > 300
        for text, embedding in rows:
            assert embedding is not None
            assert np.abs(np.array(json.loads(embedding)) - vector_for(text, DIMENSIONS)).max() < 1e-6
        paid = provider.paid_for([text for text, _ in rows])
        paid_again = sum(count - 1 for count in paid)
        assert min(paid) >= 1
        assert paid_again <= in_flight_at_kills, (paid_again, in_flight_at_kills)
