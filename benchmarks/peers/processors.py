"""What processors do in a turn: of a system's own processes, of the database server, of the provider stand-in. Owns the
sums of what the operating system has booked (of children that have ended too, once their parent knows); Linux."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import psycopg


@dataclass(frozen=True)
class Work:
    """Seconds of processor."""

    system: float
    server: float
    provider: float

    def since(self, before: Work) -> Work:
        return Work(self.system - before.system, self.server - before.server, self.provider - before.provider)


def work_so_far(system_pid: int, server_pid: int, provider_pid: int | None) -> Work:
    return Work(_booked(system_pid), _booked(server_pid), _booked(provider_pid) if provider_pid else 0.0)


def server_pid(url: str) -> int:
    """The process from which all sessions of the server, which runs on this machine, descend."""
    with psycopg.connect(url) as connection:
        return psutil.Process(connection.info.backend_pid).ppid()


def _booked(pid: int) -> float:
    """Of a process, of its descendants that live, and of those that have ended."""
    try:
        process = psutil.Process(pid)
        everyone = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    seconds = 0.0
    for each in everyone:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
