"""Signs of life of the embedded PostgreSQL: what its files, its socket, its lock and its processes tell.

Reads only, but for signals. The lock is the surest sign: every process of the server inherits it, and only
the end of the last of them gives it up. Numbers of processes are checked before they are believed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embedmill.database.embedded_account import Account
from embedmill.database.embedded_cluster import ClusterFiles, run
from embedmill.database.embedded_settings import SOCKET_NAME


@dataclass(frozen=True)
class PidFile:
    """What postmaster.pid says. A file that is not (yet) whole has pid 0."""

    pid: int = 0
    socket_folder: str = ""
    status: str = ""


def read_pid_file(files: ClusterFiles) -> PidFile:
    try:
        lines = [line.strip() for line in files.pid_file.read_text(errors="surrogateescape").splitlines()]
    except FileNotFoundError:
        return PidFile()
    pid = int(lines[0]) if lines and lines[0].isascii() and lines[0].isdigit() else 0
    if len(lines) < 8 or not pid:
        return PidFile(pid=pid)
    return PidFile(pid=pid, socket_folder=lines[4], status=lines[7])


def answers(files: ClusterFiles) -> bool:
    """Whether a ready server listens, and its programs are still there (an extension is loaded from them)."""
    try:
        found = read_pid_file(files)
        if found.status != "ready":
            return False
        # The program, which may hold blanks, then each argument in quotes.
        program = (files.data / "postmaster.opts").read_text(errors="surrogateescape").split(' "', 1)[0]
        if not Path(program.strip()).exists():
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.connect(f"{found.socket_folder}/{SOCKET_NAME}")
    except OSError:
        return False
    return True


def lives(files: ClusterFiles) -> bool:
    """Whether any process of the server lives, a lone backend or one started by hand included."""
    try:
        descriptor = os.open(files.life, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return is_of_server(read_pid_file(files).pid, files)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return is_of_server(read_pid_file(files).pid, files)


def is_of_server(pid: int, files: ClusterFiles) -> bool:
    """Whether this process works in our cluster's folder: the number alone may be somebody else's by now."""
    import psutil  # noqa: PLC0415 - 0.1 s, on the slow way only

    try:
        process = psutil.Process(pid)
        if pid <= 0 or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.cwd() == str(files.data)
    except psutil.AccessDenied:
        return _working_folder_as_owner(pid, files) == str(files.data)
    except psutil.Error:
        return False


def end_processes(files: ClusterFiles) -> None:
    """kill -9 of whatever still works in the cluster's folder; only for what no postmaster looks after."""
    import psutil  # noqa: PLC0415

    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres" and is_of_server(process.pid, files):
            send_signal(process.pid, signal.SIGKILL)


def _working_folder_as_owner(pid: int, files: ClusterFiles) -> str:
    """Root in a container may not look into another account's process (no CAP_SYS_PTRACE): its owner may."""
    facts = files.data.stat()
    owner = Account(facts.st_uid, facts.st_gid, str(facts.st_uid), switch=os.geteuid() == 0)
    return run(["readlink", f"/proc/{pid}/cwd"], owner, cwd=Path("/")).stdout.removesuffix("\n")


def send_signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
