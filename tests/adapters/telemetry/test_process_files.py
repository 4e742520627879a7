"""What processes count is right with many of them, and no counter goes back when one ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.adapters.telemetry import catalog
from embedmill.adapters.telemetry.exposition import ProcessPage
from embedmill.adapters.telemetry.process_file import SIZE, ProcessFile, read_values
from embedmill.adapters.telemetry.process_folder import read_machine
from embedmill.adapters.telemetry.process_telemetry import ProcessTelemetry, series_key, take_over
from embedmill.ports import ProviderCall, ProviderSpec, Purpose

# Counts for as long as its standard input is open: a worker that can be stopped, killed and frozen.
_COUNTING = """
import sys
from pathlib import Path
from embedmill.adapters.telemetry.process_telemetry import ProcessTelemetry
telemetry = ProcessTelemetry(Path(sys.argv[1]))
for line in sys.stdin:
    for _ in range(int(line)):
        telemetry.claimed(items=2, seconds=0.003)
    print("done", flush=True)
telemetry.close()
"""


class Counting:
    """A process that makes as many claims as it is told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COUNTING, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def claim(self, times: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(times, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def end(self, how: signal.Signals | None = None) -> None:
        if how is not None:
            self.process.send_signal(how)
        self.process.communicate()


def sample(folder: Path, name: str) -> float:
    found = [
        each.value for family in ProcessPage(folder).collect() for each in family.samples if each.name == name
    ]
    assert len(found) == 1, name
    return float(found[0])


def call(model: str, outcome: str = "ok", tokens: int | None = 7) -> ProviderCall:
    spec = ProviderSpec(provider="openai", model=model, dimensions=8)
    return ProviderCall(spec, Purpose.DOCUMENT, 3, tokens, model, 0.2, outcome)


def test_counts_of_many_processes_are_summed_and_outlive_their_ends(tmp_path: Path) -> None:
    several = [Counting(tmp_path) for _ in range(3)]
    for one in several:
        one.claim(100)
    assert sample(tmp_path, "embedmill_claimed_items_total") == 600
    assert sample(tmp_path, "embedmill_processes") == 3

    several[0].end(signal.SIGKILL)
    several[1].end()
    assert sample(tmp_path, "embedmill_claimed_items_total") == 600
    assert sample(tmp_path, "embedmill_claim_duration_seconds_count") == 300
    assert sample(tmp_path, "embedmill_processes") == 1

    several[2].claim(1)
    another = Counting(tmp_path)
    another.claim(10)
    assert sample(tmp_path, "embedmill_claimed_items_total") == 622
    for one in (several[2], another):
        one.end(signal.SIGKILL)
    assert sample(tmp_path, "embedmill_claimed_items_total") == 622
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ended.json", "folder.lock"]


def test_files_of_the_dead_do_not_pile_up_where_nobody_reads_them(tmp_path: Path) -> None:
    for _ in range(20):
        telemetry = ProcessTelemetry(tmp_path)
        telemetry.claimed(items=1, seconds=0.1)
        telemetry.close()
    assert len(list(tmp_path.glob("*.values"))) == 1
    assert sample(tmp_path, "embedmill_claimed_items_total") == 20


def test_a_reader_that_dies_while_it_takes_over_counts_nothing_twice(tmp_path: Path) -> None:
    telemetry = ProcessTelemetry(tmp_path)
    telemetry.reused(vectors=5)
    telemetry.close()
    (left,) = tmp_path.glob("*.values")
    kept = left.read_bytes()
    assert sample(tmp_path, "embedmill_vectors_reused_total") == 5
    left.write_bytes(kept)  # as if it had died before the file went
    assert sample(tmp_path, "embedmill_vectors_reused_total") == 5
    assert not left.exists()


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"\x40" + bytes(7) + b"\xff" * 56, os.urandom(512)])
def test_a_damaged_file_costs_its_own_figures_only(tmp_path: Path, damage: bytes) -> None:
    telemetry = ProcessTelemetry(tmp_path)
    telemetry.reused(vectors=5)
    (tmp_path / "damaged.values").write_bytes(damage)
    (tmp_path / "ended.json").write_bytes(damage)
    assert sample(tmp_path, "embedmill_vectors_reused_total") == 5
    telemetry.close()


def test_a_worker_of_another_version_is_read_as_far_as_it_is_understood(tmp_path: Path) -> None:
    other = ProcessFile(tmp_path)
    for key, width in (
        ('["embedmill_of_tomorrow_total"]', 1),
        (series_key(catalog.CLAIM_SECONDS, ()), catalog.CLAIM_SECONDS.width + 3),
        (series_key(catalog.CLAIMED_ITEMS, ()), 1),
    ):
        at = other.add(key, width)
        assert at is not None
        other.values[at] = 4.0
    assert sample(tmp_path, "embedmill_claimed_items_total") == 4
    ours = ProcessTelemetry(tmp_path)
    ours.claimed(items=1, seconds=0.1)
    other.close()
    assert sample(tmp_path, "embedmill_claimed_items_total") == 5
    assert sample(tmp_path, "embedmill_claim_duration_seconds_count") == 1
    ours.close()


def test_labels_that_users_make_up_are_bounded(tmp_path: Path) -> None:
    telemetry = ProcessTelemetry(tmp_path)
    for number in range(500):
        telemetry.called(call(f"model-{number}"))
    telemetry.called(call("model-0"))
    machine = read_machine(tmp_path, take_over)
    calls = {key: values for key, values in machine.series.items() if "calls_total" in key}
    assert len(calls) == catalog.MOST_OPEN_SETS + 1
    assert calls['["embedmill_provider_calls_total","openai","model-0","document","ok"]'] == [2.0]
    assert calls['["embedmill_provider_calls_total","other","other","document","ok"]'] == [450.0]
    telemetry.close()


def test_what_many_processes_have_left_is_bounded_and_loses_nothing(tmp_path: Path) -> None:
    for start in range(0, 400, 40):
        telemetry = ProcessTelemetry(tmp_path)
        for number in range(start, start + 40):
            telemetry.called(call(f"model-{number}"))
        telemetry.close()
        read_machine(tmp_path, take_over)
    calls = {key: v for key, v in read_machine(tmp_path, take_over).series.items() if "calls_total" in key}
    assert len(calls) == 201
    assert sum(values[0] for values in calls.values()) == 400


def test_a_full_file_takes_no_new_series_and_keeps_the_old_ones(tmp_path: Path) -> None:
    file = ProcessFile(tmp_path)
    first = file.add("first", 1)
    assert first is not None
    while file.add("x" * 500, 100) is not None:
        pass
    file.values[first] += 1
    assert file.path.stat().st_size == SIZE
    assert read_values(file.path)["first"] == [1.0]
    file.close()


def test_without_a_folder_to_write_to_work_goes_on_unshared(tmp_path: Path) -> None:
    in_the_way = tmp_path / "metrics"
    in_the_way.write_text("a file, and no folder")
    telemetry = ProcessTelemetry(in_the_way)
    telemetry.claimed(items=1, seconds=0.1)
    assert sample(telemetry.folder, "embedmill_claimed_items_total") == 1
    telemetry.close()
    telemetry.claimed(items=1, seconds=0.1)  # after the end: nobody is told, nothing is raised


def test_only_what_succeeded_counts_its_tokens(tmp_path: Path) -> None:
    telemetry = ProcessTelemetry(tmp_path)
    telemetry.called(call("m"))
    telemetry.called(call("m", tokens=None))
    telemetry.called(call("m", "rate_limited", None))
    assert sample(tmp_path, "embedmill_provider_tokens_total") == 7
    assert sample(tmp_path, "embedmill_provider_inputs_total") == 6
    assert sample(tmp_path, "embedmill_provider_call_duration_seconds_count") == 3
    telemetry.close()
