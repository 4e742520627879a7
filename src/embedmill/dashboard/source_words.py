"""What the pages of sources say in words: why a source is not complete, what a person can do about it, what an audit's
step is. Owns the words only; asks nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

BINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "none": "complete",
        "paused": "paused",
        "trouble": "cannot be read",
        "quota": "waits for its quota",
        "backfill": "at the pace of its backfill",
        "budget": "its budget is used up",
        "embedding": "being embedded",
        "reading": "being read",
        "failed": "the rest has failed",
        "nobody": "nobody sees to the rest",
    }
)
"""What holds a source up (SourceCoverage.binds)."""

ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paused": "Nothing of it is read or embedded until somebody resumes it, or its pipeline.",
        "quota": "The calls or tokens of its pipeline's quota are used up for now; it goes on by itself.",
        "backfill": "The backfill was told to go no faster.",
        "budget": "The backfill may pay for no more: start it again with a larger budget, or with none.",
        "failed": "What is missing has failed for good: the dead letters say why, and can be retried.",
        "nobody": "Rows that stood there before are not embedded, and no backfill is at them: start one.",
    }
)
"""What that means, and what to do; nothing is said where it goes on by itself."""

NEEDS_A_PERSON: Final = frozenset({"paused", "trouble", "budget", "failed", "nobody"})

_STEPS = {
    "leases": "what dead workers hold",
    "leftovers": "what removed sources left",
    "triggers": "the triggers of tables",
    "watch": "the triggers of tables",
    "indexes": "indexes of vectors",
    "index": "indexes of vectors",
    "vectors": "vectors against their chunks",
    "documents": "documents against the queue",
    "rows": "rows against their documents",
    "records": "documents against their rows",
    "counters": "counters",
    "numbers": "counters of sources",
}
_OPTIONS = {
    "--content": "the template",
    "--columns": "the heeded columns",
    "--where": "the condition",
    "--metadata": "the columns for filters",
    "--key": "the key",
    "--into column": "the column for vectors",
    "--no-switch": "no switch",
    "--price-per-million-tokens": "the price",
    "--chunk-tokens": "the tokens of a chunk",
    "--chunk-overlap": "the overlap",
    "--provider": "the provider",
    "--budget-usd": "a budget",
    "--dimensions": "the dimensions",
    "--model": "the model",
    "--storage": "the storage",
    "--force": "the box to go on all the same",
    "--column": "the columns for the next vectors",
}


def step_words(step: str | None) -> str:
    """A step of an audit (`rows:12`) as people read it."""
    name = (step or "").partition(":")[0]
    return _STEPS.get(name, name.replace("_", " "))


def without_options(message: str) -> str:
    """A message that names options of the command line, for somebody who sees fields; commands in backticks stay."""
    parts = message.split("`")
    for index in range(0, len(parts), 2):
        for option in sorted(_OPTIONS, key=len, reverse=True):
            parts[index] = re.sub(rf"{option}(?![\w-])", _OPTIONS[option], parts[index])
    return "`".join(parts)
