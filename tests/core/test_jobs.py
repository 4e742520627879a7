"""The state machines as tables, held against the database: every pair of statuses is tried."""

from __future__ import annotations

from itertools import product
from uuid import uuid4

import psycopg
import pytest

from embedmill.core.jobs import ITEM_TRANSITIONS, JOB_TRANSITIONS, ItemStatus, JobStatus


def test_the_database_allows_a_job_exactly_the_steps_of_the_table(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name) "
            "VALUES (1, 1, 'test', 'test', 'test')"
        )
        for before, after in product(JobStatus, JobStatus):
            is_in_table = after in JOB_TRANSITIONS[before] or after is before
            assert allows(connection, before, after) == is_in_table, f"{before} to {after}"


def allows(connection: psycopg.Connection[tuple[object, ...]], before: JobStatus, after: JobStatus) -> bool:
    with connection.transaction(force_rollback=True):
        connection.execute(
            "INSERT INTO embedmill.ingestion_jobs (tenant_id, pipeline_id, document_id, status) "
            "SELECT 1, 1, id, %s FROM embedmill.knowledge_documents",
            (before.value,),
        )
        try:
            with connection.transaction():
                connection.execute("UPDATE embedmill.ingestion_jobs SET status = %s", (after.value,))
        except psycopg.errors.CheckViolation:
            return False
        return True


@pytest.mark.parametrize(("statuses", "name"), [(JobStatus, "job_status"), (ItemStatus, "queue_status")])
def test_the_statuses_are_those_of_the_database(
    database: str, statuses: type[JobStatus] | type[ItemStatus], name: str
) -> None:
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT enumlabel FROM pg_enum WHERE enumtypid = %s::regtype ORDER BY enumsortorder",
            (f"embedmill.{name}",),
        ).fetchall()
    assert [row[0] for row in rows] == [status.value for status in statuses]


def test_live_items_stand_in_the_queue_and_ended_ones_in_the_history_only(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for status, steps in ITEM_TRANSITIONS.items():
            assert stands_in_queue(connection, status) == bool(steps), status


def stands_in_queue(connection: psycopg.Connection[tuple[object, ...]], status: ItemStatus) -> bool:
    with connection.transaction(force_rollback=True):
        try:
            with connection.transaction():
                connection.execute(
                    "INSERT INTO embedmill.embedding_queue "
                    "    (tenant_id, generation_id, status, source_type, source_id, lease_token, worker_id) "
                    "VALUES (1, 1, %s, 'test', 'test', %s, %s)",
                    (status.value, *((1, uuid4()) if status is ItemStatus.PROCESSING else (None, None))),
                )
        except psycopg.errors.CheckViolation:
            return False
        return True


@pytest.mark.parametrize("table", [JOB_TRANSITIONS, ITEM_TRANSITIONS], ids=["jobs", "items"])
def test_every_status_can_be_reached_and_can_reach_an_end(
    table: dict[JobStatus, dict[JobStatus, str]],
) -> None:
    beginning = next(iter(table))
    reached, frontier = {beginning}, [beginning]
    while frontier:
        for after in table[frontier.pop()]:
            if after not in reached:
                reached.add(after)
                frontier.append(after)
    assert reached == set(table)
    ends = {status for status in table if status.value in ("completed", "failed", "cancelled")}
    assert len(ends) == 3
    can_end = set(ends)
    for _ in table:
        can_end |= {status for status, steps in table.items() if can_end & set(steps)}
    assert can_end == set(table)
