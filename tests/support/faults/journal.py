"""What a worker's wrappers wrote down, read again. Owns the reading: calls, and what became of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from embedmill.embed.attempts import HARMLESS
from tests.support.provider import digest_of

# What the product asks a provider to see whether it takes anything; it is on the books, and nobody's content.
TRIAL = digest_of(HARMLESS).hex()


class CallSeen(msgspec.Struct):
    """One call to the provider, as the worker's process saw it. Times are of the machine's monotonic clock."""

    worker: str
    texts: list[str]
    begun_at: float
    refused: str | None = None
    charged: bool = False
    answered: bool = False
    writing: str | None = None
    written_at: float | None = None


class Journal(msgspec.Struct):
    """One worker's process: its calls, and the faults that it met at a step (step, fault, at)."""

    calls: list[CallSeen]
    faults: list[tuple[str, str, float]]
    entries: dict[str, tuple[int, int]]
    """Inputs and tokens of the ledger's entry, by its call id."""


def read_journal(path: Path, worker: str) -> Journal:
    """The last line may be cut short where its writer was killed; it is left out."""
    by_number: dict[int, CallSeen] = {}
    by_id: dict[str, CallSeen] = {}
    journal = Journal([], [], {})
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    for note in map(json.loads, lines):
        match note["what"]:
            case "begun":
                call = CallSeen(worker, note["texts"], note["at"])
                by_number[note["call"]] = call
                journal.calls.append(call)
            case "refused":
                by_number[note["call"]].refused = note["error"]
                by_number[note["call"]].charged = note["charged"]
            case "answered":
                by_number[note["call"]].answered = True
            case "writing":
                call = _answered_call(by_number, note)
                call.writing = note["id"]
                by_id[note["id"]] = call
                journal.entries[note["id"]] = (note["inputs"], note["tokens"])
            case "written":
                by_id[note["id"]].written_at = note["at"]
            case "recording" if note["error"] is None:
                _trial(by_number, note).writing = note["id"]
                journal.entries[note["id"]] = (note["inputs"], note["tokens"])
            case "recorded" if note["error"] is None:
                _trial(by_number, note).written_at = note["at"]
            case "recording" | "recorded":
                pass  # that it was refused stands here already
            case "fault":
                journal.faults.append((note["step"], note["fault"], note["at"]))
            case other:
                raise ValueError(f"{path}: {other}")
    return journal


def _trial(by_number: dict[int, CallSeen], note: dict[str, Any]) -> CallSeen:
    """The answered call that is put on the books without vectors: a trial."""
    for call in reversed(by_number.values()):
        if call.texts == [TRIAL] and call.answered and call.writing in (None, note["id"]):
            return call
    raise ValueError(f"a call is booked that was never made: {note}")


def _answered_call(by_number: dict[int, CallSeen], note: dict[str, Any]) -> CallSeen:
    """The call whose answer is being written: the newest with these texts."""
    for call in reversed(by_number.values()):
        if call.texts == note["texts"] and call.answered and call.writing in (None, note["id"]):
            return call
    raise ValueError(f"a response is written that was never asked for: {note}")
