"""The verdict on a mill that has settled: every item in one final state, nothing lost, nothing written without its
lease, the books right, paid again at most what was in flight. Owns the assertions; does nothing else."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import msgspec
import numpy as np

from embedmill.core.hashing import text_hash
from tests.support import audit
from tests.support.faults.accounts import Payments, reckon_payments
from tests.support.faults.journal import CallSeen
from tests.support.faults.mill import AFTERMATH_SECONDS, Mill
from tests.support.provider import digest_of, vector_for
from tests.support.work import DIMENSIONS, missing_chunks, stored_vectors


class Verdict(msgspec.Struct):
    """What a run came to, in figures."""

    items: int
    ended: dict[str, int]
    vectors_written: int
    chunks: int
    rescued: int
    payments: Payments


async def judge(mill: Mill) -> Verdict:
    """Raises AssertionError where anything is not as it must be."""
    for hand in mill.hands:
        hand.process.assert_it_ended_as_told()
    await _assert_nothing_lost(mill)
    ended = await _assert_one_end_each(mill)
    workers = await _worker_ids(mill)
    assert await mill.observer.unheld_writes() == []
    wrong = await mill.observer.wrong_changes(workers)
    assert wrong == [], wrong[:5]
    await audit.assert_books_balance(mill.app)
    payments = await _assert_payments(mill)
    return Verdict(
        items=ended.total(),
        ended=dict(ended),
        vectors_written=await mill.observer.writes(),
        chunks=sum(len(paper.texts) for paper in mill.papers.values()),
        rescued=sum(c.is_rescue and c.old_status == "processing" for c in await mill.observer.changes()),
        payments=payments,
    )


async def _assert_nothing_lost(mill: Mill) -> None:
    """Each chunk of each document as it is now has its vector, and it is the one of that text."""
    for pipeline in mill.pipelines:
        wanted = Counter(t for p in mill.papers.values() if p.pipeline.id == pipeline.id for t in p.texts)
        stored = await stored_vectors(mill.app, pipeline)
        found = Counter(text for _, text, _ in stored)
        assert found == wanted, f"lost {wanted - found}, beyond what was asked for {found - wanted}"
        assert await missing_chunks(mill.app, pipeline) == 0
        for _, text, vector in stored:
            assert np.abs(vector - vector_for(text, DIMENSIONS)).max() < 1e-6, text


async def _assert_one_end_each(mill: Mill) -> Counter[str]:
    """Every item that was ever enqueued stands in the history once, and lives no more. None failed: no fault of
    the suite is one that a person must look at."""
    rows = await mill.app.database.fetch("SELECT id, status::text FROM embedmill.embedding_queue_history")
    assert Counter(row[0] for row in rows) == Counter(await mill.observer.enqueued())
    assert await audit.live_items(mill.app) == []
    ended = Counter(row[1] for row in rows)
    assert ended.keys() <= {"completed", "cancelled"}, (ended, await audit.dead_letters(mill.app))
    assert await audit.dead_letters(mill.app) == []
    return ended


async def _worker_ids(mill: Mill) -> dict[str, UUID]:
    """The worker's id by the name of its sessions; a process number is used once in a run."""
    rows = await mill.app.database.fetch("SELECT pid, worker_id FROM embedmill.embedding_queue_workers")
    by_pid = dict(rows)
    assert len(by_pid) == len(rows), "a process number was used twice: run again"
    return {h.process.name: by_pid[h.process.pid] for h in mill.hands if h.process.pid in by_pid}


async def _assert_payments(mill: Mill) -> Payments:
    """The ledger holds exactly the calls whose writing was committed, and the provider was paid for those and at
    most for what else had set off; each payment beyond the first was in flight at a fault."""
    journals = [hand.process.journal() for hand in mill.hands]
    calls = [call for journal in journals for call in journal.calls]
    rows = await mill.app.database.fetch(
        "SELECT call_id::text, inputs, input_tokens FROM embedmill.llm_usage_log WHERE error IS NULL"
    )
    ledger = {row[0]: (row[1], row[2]) for row in rows}
    attempted = {key: entry for journal in journals for key, entry in journal.entries.items()}
    written = {call.writing for call in calls if call.written_at is not None}
    assert written <= ledger.keys(), "a response was written and is not on the books"
    assert ledger.items() <= attempted.items(), "the books know of calls that were never made"
    _assert_provider_agrees(mill, calls, ledger)
    paid = {digest.hex(): count for digest, count in mill.provider.paid().items()}
    current = [digest_of(text).hex() for paper in mill.papers.values() for text in paper.texts]
    assert all(paid.get(digest, 0) >= 1 for digest in current)
    digest_by_hash = {text_hash(text): digest_of(text).hex() for text in mill.texts}
    writes = await mill.observer.writes_by_session()
    kept = {(session, digest_by_hash[input_hash]): n for (session, input_hash), n in writes.items()}
    payments = reckon_payments(paid, calls, mill.windows, kept, aftermath_seconds=AFTERMATH_SECONDS)
    assert payments.unexcused == [], payments.unexcused[:5]
    assert payments.paid_again <= payments.in_flight
    return payments


def _assert_provider_agrees(mill: Mill, calls: list[CallSeen], ledger: dict[str, tuple[int, int]]) -> None:
    """What the provider says it was paid lies between the books and the books with all that may have been lost."""
    stats = mill.provider.stats()
    open_calls = [c for c in calls if (c.refused is None and c.writing not in ledger) or c.charged]
    booked_inputs = sum(inputs for inputs, _ in ledger.values())
    assert len(ledger) <= stats["calls_paid"] <= len(ledger) + len(open_calls)
    assert booked_inputs <= stats["inputs_paid"] <= booked_inputs + sum(len(c.texts) for c in open_calls)
    assert stats["inputs_paid"] <= sum(
        len(call.texts) for call in calls if call.refused is None or call.charged
    )
