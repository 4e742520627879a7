"""What the pages of the queue say in words: what came of an act, what a dead letter's reason means and what to do.
Owns the words only; asks nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

REASONS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "provider_unavailable": (
            "The provider did not answer, or answered with errors, until all attempts were used up.",
            "See whether it is up again, then retry: nothing was lost and nothing of it was paid.",
        ),
        "bad_response": (
            "The provider answered with something that is no usable embedding, again and again.",
            "Check model and address of the pipeline, or tell the provider; then retry.",
        ),
        "input_rejected": (
            "The provider refuses this very text, for its content or its size: it would refuse it again.",
            "Look at the text. Change it at its source, or discard the letter: search finds the rest of the document.",
        ),
        "crash": (
            "The worker died or hung each time it came to this, eleven times in a row.",
            "Look at the memory and the logs of the workers before you retry.",
        ),
        "worker_failed": (
            "A worker of your own (through the SQL interface) gave it back as failed until all attempts were used up.",
            "See what it says in the message, mend it, and retry.",
        ),
        "too_large": (
            "It is larger than this installation reads.",
            "Make it smaller at its source, or raise the limit in the settings of the process, and retry.",
        ),
        "too_long": (
            "It is cut into more chunks than one document may have.",
            "Split it at its source, and retry.",
        ),
        "empty": (
            "There is no text in it.",
            "Nothing is to be embedded: discard the letter, or fill it and retry.",
        ),
        "no_text": (
            "It holds no text that can be read: a scan, or pictures only.",
            "Run it through character recognition first, or discard the letter.",
        ),
        "encrypted": ("It is locked by a password.", "Unlock it at its source, and retry."),
        "corrupt": ("It is damaged.", "Replace it at its source, and retry."),
        "unsupported": (
            "It is of a kind that cannot be read.",
            "Convert it at its source, or discard the letter.",
        ),
        "unreadable": ("It could not be read.", "The message says why; mend it at its source, and retry."),
        "not_storable": (
            "It holds characters that no database keeps.",
            "Mend it at its source: it is read again when it changes.",
        ),
        "timeout": ("Reading it took longer than is allowed.", "Split it at its source, or raise the limit."),
        "memory": (
            "Reading it took more memory than is allowed.",
            "Split it at its source, or raise the limit.",
        ),
    }
)
"""By reason: what it means, and what to do."""
_OTHER = (
    "It failed for good; the message of each says why.",
    "Mend what it says, then retry; or discard it.",
)


def explain_reason(reason: str) -> tuple[str, str]:
    """What a reason means, and what to do."""
    return REASONS.get(reason, _OTHER)


def retry_outcome(done: Counter[str]) -> str:
    """What came of a retry, in sentences."""
    said = []
    if done["made_due"]:
        said.append(f"{_count(done['made_due'], 'item')} may be taken now instead of later")
    if done["items"]:
        said.append(
            f"{_count(done['items'], 'ended item')} of {_count(done['documents'], 'document')} retried: "
            f"{_count(done['enqueued'], 'new item')}"
        )
    for why, words in (
        ("complete", "had every vector already"),
        ("gone", "are gone: nothing is left to embed"),
        ("unreadable", "cannot be read: upload the files again"),
        ("being_deleted", "are about to be deleted"),
        ("back", "came back after their deletion was asked for: they stay"),
    ):
        if done[why]:
            said.append(f"{_count(done[why], 'document')} {words}")
    return (
        ". ".join(said) + "."
        if said
        else "There was nothing to retry: it went on meanwhile, or waits already."
    )


def outcome(counts: Counter[str]) -> str:
    """What came of any act on many items."""
    if "letters" in counts:
        return f"{_count(counts['letters'], 'dead letter')} discarded."
    if counts["items"] or counts["made_due"]:
        return retry_outcome(counts)
    cancelled = counts["pending"] + counts["processing"] + counts["rate_limited"]
    return f"{_count(cancelled, 'item')} cancelled." if cancelled else "Nothing was left to do."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
