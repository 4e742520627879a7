"""The suite's own tools: a fault that cannot come, or a name that is gone, fails loudly."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import sql

from embedmill.database.queries import vectors_table
from tests.support.commands import EMBEDMILL
from tests.support.faults import wrappers
from tests.support.faults.accounts import Window, reckon_payments
from tests.support.faults.journal import CallSeen
from tests.support.faults.mill import Mill
from tests.support.faults.processes import worker_environment
from tests.support.queue_rows import claim

UNREACHABLE = "postgresql://nobody@/nothing?host=%2Fnowhere"


def test_a_worker_with_a_fault_that_does_not_exist_ends_before_it_begins(tmp_path: Path) -> None:
    environment = worker_environment(UNREACHABLE, tmp_path, {}, port=1, name="w") | {"FAULT_AT": "lunch:1"}
    ended = subprocess.run(
        [EMBEDMILL, "worker"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 97
    assert "lunch" in ended.stderr


@pytest.mark.parametrize(
    ("module", "name"),
    [("embedmill.queue.quotas", "grant_quota_of_old"), ("embedmill.queue.of_old", "grant_quota")],
)
def test_a_name_that_is_gone_is_an_error(module: str, name: str) -> None:
    with pytest.raises((AttributeError, ImportError)):
        wrappers._wrap(module, name, lambda original: original)


def test_a_worker_s_process_is_wrapped_at_every_place_that_imported_a_name(tmp_path: Path) -> None:
    """The one that calls, not the one that defines: a function imported by name is exchanged there, too."""
    environment = worker_environment(UNREACHABLE, tmp_path, {}, port=1, name="w")
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "from embedmill.embed import calling, holding, loading, persistence; "
            "print(calling.grant_quota.__module__, loading.claim_items.__module__, "
            "holding.hold_items.__module__, persistence.Persistence._hold.__module__)",
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.split() == ["tests.support.faults.wrappers"] * 4


def test_the_clock_of_a_worker_is_off_and_its_monotonic_clock_right(tmp_path: Path) -> None:
    environment = worker_environment(UNREACHABLE, tmp_path, {}, port=1, name="w")
    code = (
        "import time; from datetime import UTC, datetime; "
        "print(time.time(), datetime.now(UTC).timestamp(), time.monotonic())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "CLOCK_SKEW_SECONDS": "7200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    time = importlib.import_module("time")
    wall, date, monotonic = map(float, said.split())
    assert abs(wall - time.time() - 7200) < 600
    assert abs(date - time.time() - 7200) < 600
    assert abs(monotonic - time.monotonic()) < 600


async def test_the_observer_sees_a_vector_without_a_lease_and_an_end_without_a_token(mill: Mill) -> None:
    pipeline = await mill.add_pipeline("standin")
    paper = await mill.add_paper(pipeline, "d", ["a text"])
    await mill.app.database.fetch(
        sql.SQL(
            "INSERT INTO {} SELECT id, content_hash, array_fill(1::real, ARRAY[16])::vector "
            "  FROM embedmill.knowledge_chunks WHERE document_id = %s"
        ).format(vectors_table(pipeline.generation.id)),
        (paper.document_id,),
    )
    assert len(await mill.observer.unheld_writes()) == 1
    assert await mill.observer.wrong_changes({}) == []
    nobody = uuid4()
    await claim(mill.app.database, pipeline.generation.id, worker_id=nobody)
    await mill.app.database.fetch(
        "SELECT embedmill.complete_items(%s, ARRAY(SELECT id FROM embedmill.embedding_queue))",
        (pipeline.generation.id,),
    )
    found = [what for what, _ in await mill.observer.wrong_changes({})]
    assert found == ["a claim in another's name", "an end without its token"]


def test_a_payment_that_no_fault_explains_is_found() -> None:
    kill = Window("kill", "a", 5.0, 5.0)
    calls = [CallSeen("a", ["t", "u"], 4.5), CallSeen("b", ["t"], 6.0, written_at=7.0)]
    found = reckon_payments({"t": 2, "u": 1}, calls, [kill], {("b", "t"): 1}, aftermath_seconds=1.0)
    assert (found.paid_again, found.in_flight, found.unexcused) == (1, 2, [])
    calls.append(CallSeen("b", ["t"], 20.0, written_at=21.0))
    found = reckon_payments({"t": 3, "u": 1}, calls, [kill], {("b", "t"): 1}, aftermath_seconds=1.0)
    assert len(found.unexcused) == 1
