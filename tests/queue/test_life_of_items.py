"""Random lives of queue items through the real SQL functions, beside a model: whatever the order of claims,
returns, crashes and cancellations, statuses change only as ITEM_TRANSITIONS says, only the current token
writes, and every item ends once."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from embedmill.core.jobs import ITEM_TRANSITIONS, ItemStatus

GENERATION = 1  # of the default pipeline, which stands after the migration
LEASES = st.integers(min_value=0, max_value=10_000)
FINAL = {ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED}

SNAPSHOT = """
SELECT id, status::text, retry_count, crash_count, lease_token, worker_id, true FROM embedmill.embedding_queue
UNION ALL
SELECT id, status::text, retry_count, crash_count, NULL, NULL, false FROM embedmill.embedding_queue_history
"""
ENQUEUE = """
INSERT INTO embedmill.embedding_queue AS q (tenant_id, generation_id, document_id, priority, source_type, source_id)
VALUES (1, 1, %(document)s, %(priority)s, 'test', %(source)s)
ON CONFLICT (generation_id, source_type, source_id, part) DO UPDATE SET priority = least(q.priority, excluded.priority)
RETURNING id
"""


class Life(RuleBasedStateMachine):
    """`self.model` says of each item what it should be; leases are all that were ever given."""

    url = ""

    @initialize()
    def begin(self) -> None:
        self.database = psycopg.connect(self.url, autocommit=True)
        self.database.execute(
            "TRUNCATE embedmill.embedding_queue, embedmill.embedding_queue_history, embedmill.dead_letters, "
            "embedmill.embedding_queue_workers"
        )
        self.model: dict[int, dict[str, Any]] = {}
        self.leases: list[tuple[int, int]] = []
        self.tokens: set[int] = set()
        self.workers = [self._register() for _ in range(2)]

    def teardown(self) -> None:
        if not hasattr(self, "database"):
            return
        try:
            self._work_off_the_rest()
        finally:
            self.database.close()

    @rule(source=st.integers(0, 5), priority=st.sampled_from(["high", "medium", "low"]))
    def enqueue(self, source: int, priority: str) -> None:
        row = self._one(ENQUEUE, {"document": source, "priority": priority, "source": str(source)})
        live = [item for item in self.model.values() if item["live"] and item["source"] == source]
        assert (row[0] in self.model) == bool(live), "enqueueing again merges into what is live"
        self.model.setdefault(
            row[0],
            {
                "source": source,
                "live": True,
                "status": "pending",
                "retries": 0,
                "crashes": 0,
                "token": None,
                "worker": None,
                "due": True,
            },
        )

    @rule(worker=st.integers(0, 1), most=st.integers(1, 4))
    def claim(self, worker: int, most: int) -> None:
        rows = self.database.execute(
            "SELECT id, lease_token FROM embedmill.claim_items(%s, %s, %s, 1000, 100000, 600)",
            (self.workers[worker], GENERATION, most),
        ).fetchall()
        ready = [
            i
            for i, item in self.model.items()
            if item["due"] and item["status"] in ("pending", "rate_limited")
        ]
        assert len(rows) == min(most, len(ready))
        for item_id, token in rows:
            assert item_id in ready
            assert token not in self.tokens, "a token was given twice"
            self.tokens.add(token)
            self.leases.append((item_id, token))
            self.model[item_id].update(status="processing", token=token, worker=worker)

    @rule(pick=LEASES, attempts=st.integers(0, 1), limited=st.booleans(), delay=st.sampled_from([0, 60_000]))
    def give_back(self, pick: int, attempts: int, limited: bool, delay: int) -> None:
        lease = self._lease(pick)
        if lease is None:
            return
        status = "rate_limited" if limited else "pending"
        ended = self._one(
            "SELECT embedmill.return_items(%s, %s, %s, %s, %s, 'test', 'a reason')",
            ([lease[0]], [lease[1]], status, attempts, delay),
        )[0]
        if not self._is_current(lease):
            assert ended == []
            return
        item = self.model[lease[0]]
        retries = item["retries"] + attempts
        item.update(status=status, token=None, worker=None, retries=retries, due=delay == 0 and item["due"])
        assert ended == ([lease[0]] if retries > 3 else [])
        if retries > 3:
            item.update(status="failed", live=False)

    @rule(pick=LEASES)
    def complete(self, pick: int) -> None:
        lease = self._lease(pick)
        if lease is None:
            return
        with self.database.transaction():
            held = [
                row[0]
                for row in self.database.execute(
                    "SELECT embedmill.hold_items(%s, %s)", ([lease[0]], [lease[1]])
                )
            ]
            assert held == ([lease[0]] if self._is_current(lease) else []), "a stale token was accepted"
            done = self._one("SELECT embedmill.complete_items(%s, %s)", (GENERATION, held))[0]
        assert done == held
        for item_id in done:
            self.model[item_id].update(status="completed", live=False, token=None, worker=None)

    @rule(worker=st.integers(0, 1))
    def die_and_be_rescued(self, worker: int) -> None:
        dead, self.workers[worker] = self.workers[worker], self._register()
        rescued = self._one("SELECT embedmill.rescue_items(%s)", ([dead],))[0]
        held = [item for item in self.model.values() if item["worker"] == worker]
        assert rescued == len(held)
        for item in held:
            item.update(status="pending", token=None, worker=None, crashes=item["crashes"] + 1)
            if item["crashes"] > 10:
                item.update(status="failed", live=False)

    @rule(source=st.integers(0, 5))
    def cancel(self, source: int) -> None:
        self.database.execute("SELECT embedmill.cancel_document_items(%s, 'gone')", (source,))
        for item in self.model.values():
            if item["live"] and item["source"] == source:
                item.update(status="cancelled", live=False, token=None, worker=None)

    @rule()
    def time_passes(self) -> None:
        self.database.execute("UPDATE embedmill.embedding_queue SET available_at = now() - interval '1 s'")
        for item in self.model.values():
            item["due"] = True

    @invariant()
    def the_database_is_as_the_model_says_and_no_step_was_forbidden(self) -> None:
        if not hasattr(self, "model"):
            return
        rows = self.database.execute(SNAPSHOT).fetchall()
        assert len({row[0] for row in rows}) == len(rows) == len(self.model), (
            "an item is lost, or stands twice"
        )
        for item_id, status, retries, crashes, token, _, live in rows:
            item = self.model[item_id]
            assert (status, retries, crashes, token, live) == (
                item["status"],
                item["retries"],
                item["crashes"],
                item["token"],
                item["live"],
            )
            assert live == (ItemStatus(status) not in FINAL)
            before = item.get("seen", "pending")
            assert status == before or ItemStatus(status) in ITEM_TRANSITIONS[ItemStatus(before)], (
                before,
                status,
            )
            item["seen"] = status
        letters = self._one("SELECT count(*) FROM embedmill.dead_letters")[0]
        assert letters == sum(item["status"] == "failed" for item in self.model.values())

    def _work_off_the_rest(self) -> None:
        """Nothing is stuck: rescued once and claimed, every item that lives can end."""
        self.database.execute("SELECT embedmill.rescue_items(%s)", (self.workers,))
        self.time_passes()
        for _ in range(100):
            rows = self.database.execute(
                "SELECT id, lease_token FROM embedmill.claim_items(%s, %s, 5, 1000, 100000, 600)",
                (uuid4(), GENERATION),
            ).fetchall()
            if not rows:
                break
            with self.database.transaction():
                ids, tokens = [row[0] for row in rows], [row[1] for row in rows]
                self.database.execute("SELECT embedmill.hold_items(%s, %s)", (ids, tokens))
                assert sorted(
                    self._one("SELECT embedmill.complete_items(%s, %s)", (GENERATION, ids))[0]
                ) == sorted(ids)
        assert self._one("SELECT count(*) FROM embedmill.embedding_queue")[0] == 0
        ended = self.database.execute(
            "SELECT id FROM embedmill.embedding_queue_history ORDER BY id"
        ).fetchall()
        assert [row[0] for row in ended] == sorted(self.model), "every item ends exactly once"

    def _lease(self, pick: int) -> tuple[int, int] | None:
        """One of all leases ever given; small picks, which hypothesis likes, are the newest."""
        return self.leases[-1 - pick % len(self.leases)] if self.leases else None

    def _is_current(self, lease: tuple[int, int]) -> bool:
        return bool(self.model[lease[0]]["token"] == lease[1])

    def _register(self) -> UUID:
        worker = uuid4()
        self.database.execute(
            "INSERT INTO embedmill.embedding_queue_workers "
            "    (worker_id, hostname, host_id, pid, pid_started_at, heartbeat_interval_ms, version) "
            "VALUES (%s, 'test', 'test', 1, 0, 3600000, 'test')",
            (worker,),
        )
        return worker

    def _one(self, statement: str, parameters: Any = None) -> tuple[Any, ...]:
        row = self.database.execute(statement.encode(), parameters).fetchone()
        assert row is not None
        return row


def test_every_item_ends_once_and_only_the_current_token_writes(database: str) -> None:
    Life.url = database
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
