"""What profiles are made of: stacks become places, statements become names, and samples become shares."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.profiles.sessions import label_of
from benchmarks.profiles.shares import TOP, Seen, shares, turned
from benchmarks.profiles.stacks import fold

ROOT = (
    'process 12:"embedmill worker;x";<module> (embedmill);run (embedmill/cli/worker.py);'
    "BaseEventLoop._run_once (asyncio/base_events.py)"
)
RUN = f"{ROOT};Handle._run (asyncio/events.py)"


@pytest.mark.parametrize(
    ("stack", "place", "library"),
    [
        (f"{RUN};encode (embedmill/embed/vector_copy.py)", "embed/vector_copy.py encode", "itself"),
        (
            f"{RUN};call (embedmill/embed/a.py);read.<locals>.part (embedmill/b.py);send (httpx2/_client.py)",
            "b.py read",
            "httpx2",
        ),
        (
            f"{RUN};claim (embedmill/queue/items.py);fetch (embedmill/database/pool.py);execute (psycopg/cursor.py)",
            "queue/items.py claim",
            "psycopg",
        ),
        (f"{RUN};connection (embedmill/database/pool.py)", "driver", "driver"),
        (f"{RUN};data_received (httpcore2/_h11.py)", "httpcore2", "httpcore2"),
        (ROOT, "asyncio", "asyncio"),
        (
            "<module> (embedmill);main (embedmill/cli/main.py);"
            "_load (<frozen importlib._bootstrap>);<module> (numpy/__init__.py)",
            "imports",
            "numpy",
        ),
        ("Thread._bootstrap (threading.py);put (queue.py)", "queue", "queue"),
    ],
)
def test_a_stack_belongs_to_the_innermost_function_of_ours(stack: str, place: str, library: str) -> None:
    assert fold(f"{stack} 7\n") == Counter({(place, library): 7})


@pytest.mark.parametrize(
    "stack",
    [
        f"{ROOT};EpollSelector.select (selectors.py)",
        "Thread._bootstrap (threading.py);_worker (concurrent/futures/thread.py)",
        "Thread._bootstrap (threading.py);beat (embedmill/worker/heartbeat.py);Condition.wait (threading.py)",
    ],
)
def test_who_waits_is_left_out(stack: str) -> None:
    assert fold(f"{stack} 7\n") == Counter()


def test_stacks_of_one_place_are_added_up_and_empty_ones_are_left_out() -> None:
    one = f"{RUN};encode (embedmill/embed/vector_copy.py)"
    assert fold(f'{one} 3\n{one} 4\nprocess 12:"embedmill" 9\n') == Counter(
        {("embed/vector_copy.py encode", "itself"): 7}
    )


@pytest.mark.parametrize(
    ("statement", "label"),
    [
        ('COPY "embedmill"."vectors_12" (chunk_id, embedding) FROM STDIN (FORMAT binary)', "COPY vectors_N"),
        (
            "-- Claims ready items.\nSELECT id, retry_count\n  FROM embedmill.claim_items($1, $2)",
            "SELECT claim_items()",
        ),
        ("SELECT a.id FROM embedmill.pipelines a JOIN embedmill.tenants t USING (id)", "SELECT pipelines"),
        (
            "INSERT INTO embedmill.shards AS s (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET a = $1",
            "INSERT shards",
        ),
        (
            "WITH gone AS (DELETE FROM ONLY embedmill.embedding_queue RETURNING id) SELECT count(*) FROM gone",
            "DELETE embedding_queue",
        ),
        (
            "SELECT 1 FROM embedmill.ingestion_jobs WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED",
            "SELECT ingestion_jobs",
        ),
        ("UPDATE public.notes SET title = embedmill.words($1)", "UPDATE public.notes"),
        ("select 1", "select N"),
        ("COMMIT", "COMMIT"),
        (
            'CREATE INDEX CONCURRENTLY "vectors_3_hnsw" ON "embedmill"."vectors_3" USING hnsw (embedding)',
            "CREATE INDEX CONCURRENTLY vectors_N_hnsw ON vectors_N USING",
        ),
        (
            "autovacuum: VACUUM ANALYZE embedmill.knowledge_chunks",
            "autovacuum: VACUUM ANALYZE knowledge_chunks",
        ),
    ],
)
def test_a_statement_is_called_by_what_it_does(statement: str, label: str) -> None:
    assert label_of(statement) == label


def test_shares_are_of_all_that_was_seen_also_of_what_is_not_shown() -> None:
    seen: Seen = Counter({("often", "CPU"): 6, ("often", "IO WalSync"): 2})
    seen.update({(f"rarely {number}", "CPU"): 1 for number in range(TOP)})
    rows = shares("server", seen, looks=32)
    assert rows[0] == {
        "part": "server", "what": "often", "share_percent": 50.0, "at_once": 0.25, "mostly": "CPU 75%"
    }  # fmt: skip
    assert [row["what"] for row in rows[1:]] == [f"rarely {number}" for number in range(TOP - 1)]


def test_what_was_seen_can_be_told_from_the_other_side() -> None:
    seen: Seen = Counter({("claim", "CPU"): 1, ("copy", "CPU"): 2, ("copy", "IO WalSync"): 3})
    (first, second) = shares("waits", turned(seen), looks=6)
    assert (first["what"], first["mostly"]) == ("CPU", "copy 67%")
    assert (second["what"], second["mostly"]) == ("IO WalSync", "copy 100%")


def test_of_nothing_there_is_no_share() -> None:
    assert shares("own", Counter(), looks=1) == []
