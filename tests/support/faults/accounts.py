"""What was paid, held against what went wrong: each payment of a text beyond its first must stand beside a call of
that very text that was in flight at a fault. Pure; owns the reckoning, reads nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tests.support.faults.journal import TRIAL, CallSeen


class Window(msgspec.Struct):
    """A fault from its first to its last moment (monotonic seconds), and the worker that met it: None for all."""

    kind: str
    worker: str | None
    start: float
    end: float


class Payments(msgspec.Struct):
    """Counts of inputs. `in_flight` is what may have been paid and was not kept because of a fault; `stale` is the
    part of it whose calls began only after their fault was over, with items that others had taken meanwhile.
    `unexcused` must be empty."""

    paid: int
    paid_again: int
    in_flight: int
    stale: int
    unexcused: list[str]


def reckon_payments(
    paid: Mapping[str, int],
    calls: Sequence[CallSeen],
    windows: Sequence[Window],
    kept: Mapping[tuple[str, str], int],
    *,
    aftermath_seconds: float,
) -> Payments:
    """`paid` counts the provider's payments by the text's digest; `kept` the vectors that stood at a commit, by the
    worker that wrote them and the text.

    `aftermath_seconds`: for so long after a fault a worker may not know yet what it has lost.
    """
    again = sum(count - 1 for text, count in paid.items() if text != TRIAL)
    found = Payments(sum(paid.values()), again, 0, 0, [])
    for (worker, text), asked in _by_worker_and_text(calls).items():
        thrown_away = len(asked) - kept.get((worker, text), 0)
        if thrown_away <= 0:
            continue
        excuses = [_find_excuse(call, windows, aftermath_seconds) for call in asked]
        excused = [
            (call, excuse)
            for call, excuse in zip(asked, excuses, strict=True)
            if excuse is not None or call.refused is not None
        ]
        if len(excused) < thrown_away:
            found.unexcused.append(f"paid for nothing, though nothing had gone wrong: {text} in {asked}")
        found.in_flight += thrown_away
        found.stale += any(excuse is not None and call.begun_at > excuse.end for call, excuse in excused)
    return found


def _by_worker_and_text(calls: Sequence[CallSeen]) -> dict[tuple[str, str], list[CallSeen]]:
    """The calls that may have been paid."""
    found: dict[tuple[str, str], list[CallSeen]] = {}
    for call in calls:
        if call.refused is None or call.charged:
            for text in set(call.texts) - {TRIAL}:
                found.setdefault((call.worker, text), []).append(call)
    return found


def _find_excuse(call: CallSeen, windows: Sequence[Window], aftermath_seconds: float) -> Window | None:
    """The last fault that the call met: it set off before the fault was over (or known of), and had not been written
    when the fault began."""
    met = [
        window
        for window in windows
        if window.worker in (None, call.worker)
        and call.begun_at < window.end + aftermath_seconds
        and (call.written_at is None or call.written_at > window.start)
    ]
    return max(met, key=lambda window: window.end, default=None)
