"""Who lives on this host: that very process, not a later one of its number, whatever the clock does."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from embedmill.worker.identity import current_identity, is_alive


@pytest.fixture
def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def started_at(pid: int) -> float:
    """As that process says of itself."""
    code = "from embedmill.worker import identity; print(identity.started_at(int(input())))"
    answer = subprocess.run(
        [sys.executable, "-c", code], input=str(pid), capture_output=True, text=True, check=True
    )
    return float(answer.stdout)


def test_this_process_lives_and_each_start_is_somebody_else() -> None:
    first, second = current_identity(), current_identity()
    assert first.pid == os.getpid()
    assert is_alive(first.pid, first.pid_started_at)
    assert first.worker_id != second.worker_id
    assert (first.host_id, first.pid_started_at) == (second.host_id, second.pid_started_at)


def test_a_killed_process_is_dead_at_once_also_before_anybody_has_buried_it(
    child: subprocess.Popen[bytes],
) -> None:
    begun = started_at(child.pid)
    assert is_alive(child.pid, begun)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the process table
    assert not is_alive(child.pid, begun)
    child.wait()
    assert not is_alive(child.pid, begun)
    assert child.stdin is not None
    child.stdin.close()


def test_a_later_process_of_the_same_number_is_another(child: subprocess.Popen[bytes]) -> None:
    begun = started_at(child.pid)
    assert not is_alive(child.pid, begun - 2.0)
    assert not is_alive(child.pid, begun + 2.0)
    child.communicate()


def test_a_clock_that_is_put_right_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the wall clock moves the boot time that the system reports, and with it every start time that is
    reckoned from it: a whole host would give up its living workers."""
    identity = current_identity()
    boot_time = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time + 3600.0)
    assert is_alive(identity.pid, identity.pid_started_at)


def test_the_host_is_the_same_for_all_of_its_processes() -> None:
    code = "from embedmill.worker.identity import current_identity; print(current_identity().host_id)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert said == current_identity().host_id
