"""What happens to a fleet, for whoever shows or counts it. Owns the values only."""

from __future__ import annotations

import msgspec


class FleetResized(msgspec.Struct, frozen=True):
    """So many processes should run from now on."""

    processes: int
    reason: str


class WorkerDied(msgspec.Struct, frozen=True):
    """A process ended that nobody asked to; `how` is its status or signal."""

    pid: int
    how: str
    lived_seconds: float
    again_in_seconds: float


class WorkerNotStarted(msgspec.Struct, frozen=True):
    """The system gave no process."""

    message: str
    again_in_seconds: float


class WorkerKilled(msgspec.Struct, frozen=True):
    """A process did not stop in time. Others take over what it held."""

    pid: int
    waited_seconds: float


class WorkerDrained(msgspec.Struct, frozen=True):
    """A process ended because somebody drained it: its place stays empty until another is asked for."""

    pid: int


class DatabaseAway(msgspec.Struct, frozen=True):
    """The database does not answer: the fleet stays as it is."""

    message: str


class DatabaseBack(msgspec.Struct, frozen=True):
    """The database answers again."""


FleetEvent = (
    FleetResized | WorkerDied | WorkerNotStarted | WorkerKilled | WorkerDrained | DatabaseAway | DatabaseBack
)
