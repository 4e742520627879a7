"""What an audit can find: the kinds of faults with their words, and findings as they are counted. Pure; must not know
how faults are found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

MOST_EXAMPLES = 20
"""Of each kind, kept with the audit."""


class Kind(msgspec.Struct, frozen=True):
    """`counts`: what one finding is. `is_bookkeeping`: setting it right changes no vector, no document and no bill."""

    name: str
    counts: str
    meaning: str
    repair: str
    is_bookkeeping: bool = False


_ALL: Final = (
    Kind(
        "done_but_no_vector",
        "rows, or parts of 500 chunks of a document",
        "the queue's history or the document's job says completed, and vectors are missing",
        "what is missing is enqueued; a row without a document is read",
    ),
    Kind(
        "vector_of_an_older_text",
        "rows, or parts of 500 chunks of a document",
        "the text has changed since, and nothing waits that will embed it",
        "a row is read again; a wrong vector is deleted and its chunk enqueued",
    ),
    Kind(
        "vector_without_source",
        "vectors or documents",
        "what it was made of is gone: the chunk, the row, or the whole source",
        "it is deleted",
    ),
    Kind(
        "source_never_queued",
        "rows, or parts of 500 chunks of a document",
        "not embedded, and nothing waits that will: no item, no change, no backfill",
        "what is missing is enqueued, a row is read",
    ),
    Kind(
        "job_counters_that_lie",
        "jobs or counters",
        "a job's, a source's or the coverage's numbers, or a job's status, are not so",
        "set right",
        is_bookkeeping=True,
    ),
    Kind(
        "items_whose_worker_is_gone",
        "leases",
        "held by a worker that is dead: `embedmill worker` runs nowhere, or it hangs",
        "freed",
        is_bookkeeping=True,
    ),
    Kind(
        "left_behind",
        "rows of embedmill's own",
        "changes of a source that was removed, or chunks to be cut for a generation that is gone",
        "deleted",
        is_bookkeeping=True,
    ),
    Kind(
        "index_invalid",
        "indexes",
        "an index of vectors was not built to its end, and nobody is at it",
        "dropped; a worker builds it again",
    ),
    Kind(
        "source_not_watched",
        "sources",
        "changes of the table are not seen, or it cannot be read",
        "triggers are put back and switched on; the rest is a person's to do",
    ),
)
KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _ALL})


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of what was found. `source`: its document's source_type; `id`: the row's key or what it is known by."""

    id: str
    source: str | None = None
    document_id: int | None = None
    detail: str | None = None


class Finding(msgspec.Struct):
    """All that was found of one kind, and how many of these were mended."""

    kind: str
    count: int = 0
    mended: int = 0
    examples: list[Example] = msgspec.field(default_factory=list)


class Findings:
    """Findings by kind, in the order of the kinds."""

    def __init__(self, before: Iterable[Finding] = ()) -> None:
        """Goes on with what an earlier part of the same audit found."""
        self._by_kind = {finding.kind: finding for finding in before}

    def note(self, kind: str, example: Example, *, count: int = 1, mended: int = 0) -> None:
        """So many of a kind."""
        if kind not in KINDS:
            raise ValueError(f"there is no kind {kind}")
        finding = self._by_kind.setdefault(kind, Finding(kind))
        finding.count += count
        finding.mended += mended
        if len(finding.examples) < MOST_EXAMPLES:
            finding.examples.append(example)

    def all(self) -> list[Finding]:
        """Those of which there are any."""
        return [self._by_kind[name] for name in KINDS if name in self._by_kind]

    def copy(self) -> Findings:
        """As they are now, whatever is noted later."""
        return Findings(
            msgspec.structs.replace(each, examples=list(each.examples)) for each in self._by_kind.values()
        )

    def count(self) -> int:
        return sum(finding.count for finding in self._by_kind.values())


def unmended(findings: Iterable[Finding]) -> int:
    """How many of them are still so."""
    return sum(finding.count - finding.mended for finding in findings)
