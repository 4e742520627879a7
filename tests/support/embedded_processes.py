"""The processes of an embedded server, seen from outside, for tests that kill them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

START = (
    "import sys; from pathlib import Path; from embedmill.database.embedded import ensure_running;"
    "print(ensure_running(Path(sys.argv[1])), flush=True)"
)


def server_processes(data_dir: Path) -> list[psutil.Process]:
    """Every living process that works in the cluster's folder: postmaster, backends, orphans."""
    cluster = data_dir.resolve() / "postgres" / "data"
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == cluster and _lives(process):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def postmasters(data_dir: Path) -> list[psutil.Process]:
    """Those of them whose parent is none of them."""
    processes = server_processes(data_dir)
    pids = {process.pid for process in processes}
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a session that ended meanwhile
            if process.ppid() not in pids:
                found.append(process)
    return found


def kill_everything(data_dir: Path) -> None:
    """kill -9 of the whole server, all at once, and until nothing is left."""
    processes = server_processes(data_dir)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    # Not psutil's wait: it waits for the number to be free, and init takes its time to reap.
    while any(map(_lives, processes)):
        time.sleep(0.01)


def start_in_a_process(data_dir: Path) -> subprocess.Popen[str]:
    """A separate Python process that starts (or finds) the server and prints its address."""
    return subprocess.Popen(
        [sys.executable, "-c", START, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
