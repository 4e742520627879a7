"""Random lives of queue items through the public SQL functions, beside a model (life.py): whatever the order of
claims, failures, crashes, cancellations and changes, statuses change only as ITEM_TRANSITIONS says, only the
current token writes, every item ends once, and the counts are true.

EMBEDMILL_TEST_LIVES (25) and EMBEDMILL_TEST_LIFE_STEPS (30) make a long run.
"""

from __future__ import annotations

import os
from contextlib import suppress
from uuid import UUID, uuid4

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from embedmill.core.jobs import ITEM_TRANSITIONS, ItemStatus
from tests.queue.life import FINAL, PRIORITIES, WAITING, Model, ModelItem
from tests.queue.life_tables import LifeTables

SOURCES = st.integers(0, 3)
WORKERS = st.integers(0, 1)
LEASES = st.integers(0, 1000)
PRIORITY = st.sampled_from(PRIORITIES)


class Life(RuleBasedStateMachine):
    """`self.leases` are all that were ever given: (item, worker, token), newest last."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.tables = LifeTables(self.url)
        self.model = Model([self.tables.add_document(source) for source in range(4)])
        self.leases: list[tuple[int, UUID, int]] = []
        self.workers = [self._register() for _ in range(2)]
        self.seen: dict[int, str] = {}

    def teardown(self) -> None:
        if not hasattr(self, "tables"):
            return
        try:
            self._work_off_the_rest()
        finally:
            self.tables.close()

    # What users and programs do.

    @rule(source=SOURCES, priority=PRIORITY, max_retries=st.integers(0, 3), newer=st.booleans())
    def enqueue(self, source: int, priority: str, max_retries: int, newer: bool) -> None:
        if self.model.sources[source] is None:
            self.model.sources[source] = self.tables.add_document(source)
        elif newer:
            self.model.sources[source] = self.tables.replace_content(source)
        ids = self.tables.enqueue(source, "UPDATE", priority, max_retries)
        self.model.enqueue(source, ids, priority, max_retries, newer=newer)

    @rule(source=SOURCES, priority=PRIORITY, max_retries=st.integers(0, 3))
    def delete(self, source: int, priority: str, max_retries: int) -> None:
        if self.model.sources[source] is None:
            with suppress(psycopg.errors.NoDataFound):
                raise AssertionError(self.tables.enqueue(source, "DELETE", priority, max_retries))
            return
        (item_id,) = self.tables.enqueue(source, "DELETE", priority, max_retries)
        self.model.enqueue_deletion(source, item_id, priority, max_retries)

    @rule(pick=st.integers(0, 1000))
    def cancel_an_item(self, pick: int) -> None:
        if not self.model.items:
            return
        item = list(self.model.items.values())[-1 - pick % len(self.model.items)]
        ended = self.tables.one("SELECT embedmill.cancel_items(%s, 'not wanted')", ([item.id],))
        assert ended == ([item.id] if item.live else [])
        if item.live:
            item.leave(ItemStatus.CANCELLED)

    @rule(source=SOURCES)
    def cancel_a_document(self, source: int) -> None:
        self.tables.run(
            "SELECT embedmill.cancel_document_items(%s, 'gone')", (self.tables.documents[source],)
        )
        for item in self.model.live(source):
            item.leave(ItemStatus.CANCELLED)

    @rule(source=SOURCES)
    def retry_a_document(self, source: int) -> None:
        lacking = self.model.sources[source]
        items = self.tables.one(
            "SELECT embedmill.retry_document(%s, NULL, 'low')", (self.tables.documents[source],)
        )
        assert items == (0 if lacking is None else len(lacking))
        if lacking is not None:
            ids = self.tables.live_ids(source, lacking)
            self.model.enqueue(source, ids, "low", 3)
            assert self.tables.open_dead_letters(source) == 0

    @rule(paused=st.booleans(), enabled=st.booleans(), cap=st.sampled_from([None, 1, 3]))
    def administer(self, paused: bool, enabled: bool, cap: int | None) -> None:
        self.tables.administer(paused, enabled, cap)
        self.model.paused, self.model.enabled, self.model.cap = paused, enabled, cap

    # What workers do.

    @rule(worker=WORKERS, most=st.integers(1, 4))
    def claim(self, worker: int, most: int) -> None:
        rows = self.tables.claim(self.workers[worker], most)
        assert len(rows) == self.model.claimable(most)
        given = {token for _, _, token in self.leases}
        for item_id, token in rows:
            item = self.model.items[item_id]
            assert item.status in WAITING
            assert item.due
            assert token not in given, "a token was given twice"
            self.leases.append((item_id, self.workers[worker], token))
            item.status, item.token, item.worker = ItemStatus.PROCESSING, token, worker

    @precondition(lambda self: self.leases)
    @rule(pick=LEASES)
    def store(self, pick: int) -> None:
        item, _, token = self._lease(pick)
        written = self.tables.store(item.id, token)
        lacking = self.model.sources[item.source]
        if item.token != token or item.operation == "DELETE" or lacking is None:
            assert written == 0, "a stale token wrote"
        else:
            assert written == (item.part in lacking)
            lacking.discard(item.part)

    @precondition(lambda self: self.leases)
    @rule(pick=LEASES, success=st.booleans(), stranger=st.sampled_from([False, False, False, True]))
    def complete(self, pick: int, success: bool, stranger: bool) -> None:
        item, worker, token = self._lease(pick)
        answer = self.tables.complete(item.id, uuid4() if stranger else worker, token, success)
        if item.token != token or stranger:
            assert answer == "lost", "a stale token was accepted"
            return
        lacking = self.model.sources[item.source]
        assert lacking is not None
        if success and item.operation == "DELETE":
            self.model.sources[item.source] = None
            item.leave(ItemStatus.COMPLETED)
        elif success and item.part not in lacking:
            item.leave(ItemStatus.COMPLETED)
        else:
            item.fail()
            self.tables.put_off([item.id])
        assert answer == item.status.value

    @precondition(lambda self: self.leases)
    @rule(pick=LEASES)
    def meet_a_rate_limit(self, pick: int) -> None:
        item, worker, token = self._lease(pick)
        answer = self.tables.one(
            "SELECT embedmill.handle_rate_limit(%s, %s, %s, 5000)", (item.id, worker, token)
        )
        if item.token != token:
            assert answer == "lost"
            return
        assert answer == "rate_limited"
        item.leave(ItemStatus.RATE_LIMITED)
        item.due = False
        self.tables.put_off([item.id])

    @rule(worker=WORKERS)
    def stop(self, worker: int) -> None:
        held = self.model.held_by(worker)
        assert self.tables.one("SELECT embedmill.stop_worker(%s)", (self.workers[worker],)) == len(held)
        for item in held:
            item.leave(ItemStatus.PENDING)

    # What befalls them.

    @rule()
    def time_passes(self) -> None:
        self.tables.let_everything_become_due()
        for item in self.model.items.values():
            item.due = True

    @rule(worker=WORKERS, how=st.sampled_from(["killed", "silent", "hung"]))
    def die_and_be_rescued(self, worker: int, how: str) -> None:
        held = self.model.held_by(worker)
        self.tables.lose_worker(self.workers[worker], how)
        for item in held:
            item.crash()
        self.workers[worker] = self._register()

    @precondition(lambda self: any(item.live for item in self.model.items.values()))
    @rule(pick=st.integers(0, 1000))
    def has_crashed_often(self, pick: int) -> None:
        live = [item for item in self.model.items.values() if item.live]
        item = live[pick % len(live)]
        item.crashes = 10
        self.tables.run("UPDATE embedmill.embedding_queue SET crash_count = 10 WHERE id = %s", (item.id,))

    @rule()
    def counts_are_folded(self) -> None:
        self.tables.run("SELECT embedmill.fold_queue_changes()")

    # What must hold.

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        rows = self.tables.items()
        assert len({row[0] for row in rows}) == len(rows) == len(self.model.items), (
            "an item is lost, or twice there"
        )
        for item_id, status, retries, crashes, token, priority, live in rows:
            item = self.model.items[item_id]
            expected = (item.status, item.retries, item.crashes, item.token, item.priority, item.live)
            assert (ItemStatus(status), retries, crashes, token, priority, live) == expected
            assert retries <= item.max_retries + 1
        statuses = [item.status for item in self.model.items.values()]
        assert self.tables.counts() == {
            "pending": sum(status in WAITING for status in statuses),
            **{s.value: statuses.count(s) for s in (ItemStatus.PROCESSING, *sorted(FINAL))},
        }
        assert self.tables.letters() == statuses.count(ItemStatus.FAILED)

    @invariant()
    def no_transaction_took_a_step_that_the_table_does_not_know(self) -> None:
        if not hasattr(self, "model"):
            return
        for item_id, after in self.tables.new_steps():
            before = self.seen.get(item_id)
            if before is None:
                assert after == "pending", f"item {item_id} was born {after}"
            elif after != before:
                assert ItemStatus(after) in ITEM_TRANSITIONS[ItemStatus(before)], (item_id, before, after)
            self.seen[item_id] = after

    def _work_off_the_rest(self) -> None:
        """Nothing is stuck: with everything allowed, one worker ends every item that lives."""
        self.administer(paused=False, enabled=True, cap=None)
        for worker in range(2):
            self.stop(worker)
        self.time_passes()
        while rows := self.tables.claim(self.workers[0], 5):
            for item_id, token in rows:
                self.tables.store(item_id, token)
                assert self.tables.complete(item_id, self.workers[0], token, True) == "completed"
        assert not any(row[-1] for row in self.tables.items()), "an item is stuck"
        assert sorted(row[0] for row in self.tables.items()) == sorted(self.model.items)
        assert self.tables.coverage() == self.tables.recounted_coverage()

    def _lease(self, pick: int) -> tuple[ModelItem, UUID, int]:
        """One of all leases ever given; small picks, which hypothesis likes, are the newest."""
        item_id, worker, token = self.leases[-1 - pick % len(self.leases)]
        return self.model.items[item_id], worker, token

    def _register(self) -> UUID:
        worker = uuid4()
        self.tables.run("SELECT embedmill.heartbeat(%s, NULL, 3600000)", (worker,))
        return worker


def test_every_item_ends_once_and_only_the_current_token_writes(database: str) -> None:
    Life.url = database
    LifeTables.prepare(database)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=int(os.environ.get("EMBEDMILL_TEST_LIVES", "25")),
            stateful_step_count=int(os.environ.get("EMBEDMILL_TEST_LIFE_STEPS", "30")),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
