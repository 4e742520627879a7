"""The story that embedmill was begun for: a table of 32,322 rows of which 7,051 have their vector, while the queue
says 10,772 done. The audit names the 3,721 that are not; its repair and a backfill reach 100%, and nothing but the
vectors has changed. How fast, against the 14.7 rows a second of then: benchmarks/backfill.py."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.support.provider import RunningProvider, start_provider, vectors_for

EMBEDMILL = str(Path(sys.executable).with_name("embedmill"))
DIMENSIONS = 32
ROWS, EMBEDDED, SAID_DONE = 32_322, 7_051, 10_772

JOBS = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE public.jobs (
    id uuid PRIMARY KEY, title text NOT NULL, description text NOT NULL, company text NOT NULL,
    salary integer NOT NULL CHECK (salary > 0), posted_at timestamptz NOT NULL, tags text[] NOT NULL,
    embedding vector(32));
"""
# Every column of every row but the vectors, in one number.
REST = """
SELECT count(*),
       md5(string_agg(md5(ROW(id, title, description, company, salary, posted_at, tags)::text), '' ORDER BY id))
  FROM public.jobs
"""
# As the system before has left it: its queue says so, whatever stands in the table.
SAID = """
INSERT INTO embedmill.embedding_queue_history
    (id, tenant_id, generation_id, part, status, priority, operation, retry_count, max_retries, crash_count,
     estimated_tokens, actual_tokens, vector_count, created_at, processing_completed_at, source_type, source_id,
     metadata)
SELECT nextval(pg_get_serial_sequence('embedmill.embedding_queue', 'id')), s.tenant_id, p.current_generation_id, 0,
       'completed', 'medium', 'INSERT', 0, 3, 0, 100, 100, 1, now(), now(), s.name, j.id::text, '{}'
  FROM embedmill.record_sources s JOIN embedmill.pipelines p ON p.id = s.pipeline_id
 CROSS JOIN (SELECT id FROM public.jobs ORDER BY embedding IS NULL, id LIMIT %s) j
"""


def embedmill(data_dir: Path, *arguments: str, status: int = 0) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDMILL_")}
    ran = subprocess.run(
        [EMBEDMILL, *arguments],
        env={**kept, "EMBEDMILL_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert ran.returncode == status, (
        f"{arguments}: {ran.returncode}\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"
    )
    return ran.stdout


def text_of(title: str, description: str) -> str:
    return f"{title}\n\n{description}"


def make_jobs(connection: psycopg.Connection[Any]) -> None:
    chance = random.Random(32_322)
    connection.execute(JOBS)
    rows = [
        (
            f"{chance.getrandbits(128):032x}",
            f"Engineer {number}",
            " ".join(chance.choices(["mill", "river", "wheel", "stone", "grain", "bread"], k=25))
            + f" {number}.",
            f"Company {number % 97}",
            30_000 + number,
            f"2026-01-{1 + number % 28:02} 12:00:00+00",
            ["a", "b"][: number % 3],
        )
        for number in range(ROWS)
    ]
    vectors = vectors_for([text_of(row[1], row[2]) for row in rows[:EMBEDDED]], DIMENSIONS)
    with connection.cursor().copy(
        "COPY public.jobs (id, title, description, company, salary, posted_at, tags, embedding) FROM STDIN"
    ) as copy:
        for number, row in enumerate(rows):
            has_vector = number < EMBEDDED
            copy.write_row((*row, "[" + ",".join(map(str, vectors[number])) + "]" if has_vector else None))


def findings(report: str) -> dict[str, int]:
    return {found["kind"]: found["count"] for found in json.loads(report)["findings"]}


@pytest.mark.timeout(900)
def test_the_audit_names_what_is_missing_and_repair_and_backfill_reach_all_of_it(data_dir: Path) -> None:
    with start_provider(dimensions=DIMENSIONS, latency_ms=100) as provider:
        embedmill(
            data_dir, "pipeline", "create", "story", "--model", "stand-in", "--base-url", provider.base_url,
            "--dimensions", str(DIMENSIONS), "--max-inputs-per-call", "2048",
        )  # fmt: skip
        url = embedmill(data_dir, "db", "url").strip()
        with psycopg.connect(url, autocommit=True) as connection:
            make_jobs(connection)
            before = connection.execute(REST).fetchone()
            embedmill(
                data_dir, "table", "add", "public.jobs", "--content", r"$title\n\n$description",
                "--into", "column", "embedding", "--adopt", "--pipeline", "story",
            )  # fmt: skip
            connection.execute(SAID, (SAID_DONE,))

            found = findings(embedmill(data_dir, "audit", "--source", "public.jobs", "--json", status=1))
            assert found == {"done_but_no_vector": 3_721}  # the others wait for the backfill, as they should
            assert SAID_DONE - EMBEDDED == 3_721

            embedmill(data_dir, "audit", "--source", "public.jobs", "--repair", "--json")
            embedmill(data_dir, "backfill", "public.jobs", "--all")

            assert connection.execute(
                "SELECT count(*) FROM public.jobs WHERE embedding IS NULL"
            ).fetchone() == (0,)
            assert connection.execute(REST).fetchone() == before, "something but the vectors has changed"
            assert_vectors(connection)
            assert_paid_once(provider)
        shown = json.loads(embedmill(data_dir, "table", "show", "public.jobs", "--json"))
        assert (shown["rows"], shown["coverage"]["percent"]) == (ROWS, 100)
        assert findings(embedmill(data_dir, "audit", "--source", "public.jobs", "--json")) == {}


def assert_vectors(connection: psycopg.Connection[Any]) -> None:
    """Each row has the vector of its own text."""
    rows = connection.execute("SELECT title, description, embedding::text FROM public.jobs").fetchall()
    wanted = vectors_for([text_of(title, description) for title, description, _ in rows], DIMENSIONS)
    stored = np.array([np.fromstring(row[2][1:-1], np.float32, sep=",") for row in rows])
    assert np.abs(stored - wanted).max() < 1e-5


def assert_paid_once(provider: RunningProvider) -> None:
    """What had its vector was not paid for, nothing twice; the provider may have been tried with a text or two."""
    paid = provider.stats()
    assert paid["most_paid_for_one_input"] == 1
    assert ROWS - EMBEDDED <= paid["inputs_paid"] <= ROWS - EMBEDDED + 10
