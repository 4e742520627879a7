"""The database as the random lives of test_life_of_items.py use it: a tenant of its own for each life, the public
functions, and a log of every status that an item had at the end of a transaction. Must not assert or predict."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg

DIMENSIONS = 3
PARTS = [{0}, {0, 1}]
"""The parts of a document, by the number of its source modulo two: a part is 500 chunks wide, and each has one."""

LOG = """
CREATE TABLE embedmill.test_steps (n bigserial, xact xid8 DEFAULT pg_current_xact_id(), item_id bigint, status text);
CREATE FUNCTION embedmill.test_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO embedmill.test_steps (item_id, status) VALUES (NEW.id, NEW.status::text);
    RETURN NEW;
END $$;
CREATE TRIGGER test_log AFTER INSERT OR UPDATE OF status ON embedmill.embedding_queue
    FOR EACH ROW EXECUTE FUNCTION embedmill.test_log();
CREATE TRIGGER test_log AFTER INSERT ON embedmill.embedding_queue_history
    FOR EACH ROW EXECUTE FUNCTION embedmill.test_log();
"""
CREATE_PIPELINE = """
SELECT embedmill.create_pipeline(%s, 'life', '{"provider": "openai", "model": "m", "dimensions": 3}', 3, 'vector',
                                 256, 32, 'simple', 0, NULL, NULL, NULL, false)
"""
CHUNKS = """
INSERT INTO embedmill.knowledge_chunks
    (tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset, token_count, text_config,
     content_hash, text)
SELECT %(tenant)s, %(pipeline)s, %(document)s, part * 500, 0, 1, 5, 'simple', '\\x00', %(document)s || ' ' || part
  FROM unnest(%(parts)s::integer[]) AS part
"""
ITEMS = """
SELECT id, status::text, retry_count, crash_count, lease_token, priority::text, true
  FROM embedmill.embedding_queue WHERE tenant_id = %(tenant)s
UNION ALL
SELECT id, status::text, retry_count, crash_count, NULL, priority::text, false
  FROM embedmill.embedding_queue_history WHERE tenant_id = %(tenant)s
"""
# A step is what a transaction did to an item on the whole: inside of it, an item whose attempts are used up is
# given back and then buried.
NEW_STEPS = """
WITH gone AS (DELETE FROM embedmill.test_steps RETURNING n, xact, item_id, status)
SELECT DISTINCT ON (max_n.n) s.item_id, s.status
  FROM gone s JOIN (SELECT max(n) AS n FROM gone GROUP BY xact, item_id) max_n ON max_n.n = s.n
 ORDER BY max_n.n
"""


class LifeTables:
    """One life's tenant, pipeline and documents."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=2)
        self._slug = f"life-{uuid4().hex[:12]}"
        self.tenant = self.one("INSERT INTO embedmill.tenants (slug) VALUES (%s) RETURNING id", (self._slug,))
        self.pipeline = self.one(CREATE_PIPELINE, (self.tenant,))
        self.generation = self.one(
            "SELECT current_generation_id FROM embedmill.pipelines WHERE id = %s", (self.pipeline,)
        )
        self.documents: list[int] = [0] * 4
        # A life before this one may have broken off anywhere.
        self.run("DELETE FROM embedmill.test_steps")
        self.administer(paused=False, enabled=True, cap=None)

    @staticmethod
    def prepare(url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(LOG)

    def close(self) -> None:
        self._connection.close()

    def run(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, parameters: Any = None) -> Any:
        return self.run(statement, parameters)[0][0]

    def add_document(self, source: int) -> set[int]:
        """A document of the source; returns its parts."""
        self.documents[source] = self.one(
            "INSERT INTO embedmill.knowledge_documents (tenant_id, pipeline_id, source_type, source_id, name) "
            "VALUES (%s, %s, 'test', %s, 'test') RETURNING id",
            (self.tenant, self.pipeline, str(source)),
        )
        return self._add_chunks(source)

    def replace_content(self, source: int) -> set[int]:
        """A newer version of the document, pushed without calling off what waits of the older one."""
        with self._connection.transaction():
            self.run(
                "UPDATE embedmill.knowledge_documents SET version = version + 1 WHERE id = %s",
                (self.documents[source],),
            )
            self.run(
                "DELETE FROM embedmill.knowledge_chunks WHERE document_id = %s", (self.documents[source],)
            )
            return self._add_chunks(source)

    def enqueue(self, source: int, operation: str, priority: str, max_retries: int) -> list[int]:
        rows = self.run(
            "SELECT embedmill.enqueue_embedding('test', %s, %s, %s, 'life', %s, p_max_retries => %s)",
            (str(source), operation, priority, self._slug, max_retries),
        )
        return [row[0] for row in rows]

    def live_ids(self, source: int, parts: set[int]) -> list[int]:
        rows = self.run(
            "SELECT id FROM embedmill.embedding_queue "
            " WHERE document_id = %s AND part = ANY (%s) AND operation <> 'DELETE' ORDER BY part",
            (self.documents[source], sorted(parts)),
        )
        return [row[0] for row in rows]

    def administer(self, paused: bool, enabled: bool, cap: int | None) -> None:
        self.run(
            "UPDATE embedmill.pipelines SET paused_at = CASE WHEN %s THEN now() END WHERE id = %s",
            (paused, self.pipeline),
        )
        self.run("SELECT embedmill.set_config_value('queue_enabled', to_jsonb(%s))", (enabled,))
        self.run("UPDATE embedmill.tenants SET max_processing_items = %s WHERE id = %s", (cap, self.tenant))

    def claim(self, worker: UUID, most: int) -> list[tuple[int, int]]:
        rows = self.run(
            "SELECT item_id, lease_token FROM embedmill.get_next_embedding_batch(%s, %s, 'life', %s)",
            (worker, most, self._slug),
        )
        return [(row[0], row[1]) for row in rows]

    def store(self, item_id: int, token: int) -> int:
        """Every vector that the item's chunks lack; where the token opens nothing, those of its whole document."""
        rows = self.run(
            "SELECT c.id FROM embedmill.knowledge_chunks c JOIN embedmill.embedding_jobs j "
            "    ON j.document_id = c.document_id WHERE j.id = %s",
            (item_id,),
        )
        return int(
            self.one(
                "SELECT embedmill.store_embeddings(%s, %s, %s, %s)",
                (item_id, token, [row[0] for row in rows], ["[1,2,3]"] * len(rows)),
            )
        )

    def complete(self, item_id: int, worker: UUID, token: int, success: bool) -> str:
        return str(
            self.one(
                "SELECT embedmill.complete_embedding_queue_item(%s, %s, %s, %s, 7, 'a reason')",
                (item_id, worker, token, success),
            )
        )

    def lose_worker(self, worker: UUID, how: str) -> None:
        """It is killed and seen to be, falls silent, or hangs past its leases; and somebody looks."""
        if how == "silent":
            self.run(
                "UPDATE embedmill.embedding_queue_workers SET heartbeat_interval_ms = 100, "
                "       heartbeat_at = now() - interval '1 s' "
                " WHERE worker_id = %s",
                (worker,),
            )
        elif how == "hung":
            self.run(
                "UPDATE embedmill.embedding_queue SET lease_deadline = now() WHERE worker_id = %s", (worker,)
            )
        self.run("SELECT embedmill.rescue_items(%s)", ([worker] if how == "killed" else [],))

    def put_off(self, item_ids: list[int]) -> None:
        """The real clock must not make it due while a slow test looks on."""
        self.run(
            "UPDATE embedmill.embedding_queue SET available_at = available_at + interval '1 h' WHERE id = ANY (%s)",
            (item_ids,),
        )

    def let_everything_become_due(self) -> None:
        self.run(
            "UPDATE embedmill.embedding_queue SET available_at = now() - interval '1 s' WHERE tenant_id = %s",
            (self.tenant,),
        )

    def items(self) -> list[tuple[Any, ...]]:
        """(id, status, retry_count, crash_count, lease_token, priority, is live) of every item that ever was."""
        return self.run(ITEMS, {"tenant": self.tenant})

    def counts(self) -> dict[str, int]:
        cursor = self._connection.execute("SELECT * FROM embedmill.count_embedding_jobs(%s)", (self.tenant,))
        assert cursor.description is not None
        row = cursor.fetchone()
        assert row is not None
        return {column.name: value for column, value in zip(cursor.description, row, strict=True)}

    def letters(self) -> int:
        return int(
            self.one(
                "SELECT count(*) FROM embedmill.dead_letters WHERE tenant_id = %s AND chunk_id IS NULL",
                (self.tenant,),
            )
        )

    def open_dead_letters(self, source: int) -> int:
        return int(
            self.one(
                "SELECT count(*) FROM embedmill.dead_letters WHERE document_id = %s AND resolved_at IS NULL",
                (self.documents[source],),
            )
        )

    def new_steps(self) -> list[tuple[int, str]]:
        """(item, status after) of each transaction since the last look."""
        return [(row[0], row[1]) for row in self.run(NEW_STEPS)]

    def coverage(self) -> tuple[int, int]:
        return self.run(
            "SELECT chunks, embedded FROM embedmill.generation_coverage WHERE generation_id = %s",
            (self.generation,),
        )[0]  # type: ignore[return-value]

    def recounted_coverage(self) -> tuple[int, int]:
        return self.run(
            "SELECT (SELECT count(*) FROM embedmill.knowledge_chunks WHERE pipeline_id = %s), "
            f"      (SELECT count(*) FROM embedmill.vectors_{int(self.generation)})",
            (self.pipeline,),
        )[0]  # type: ignore[return-value]

    def _add_chunks(self, source: int) -> set[int]:
        parts = PARTS[source % 2]
        self.run(
            CHUNKS,
            {
                "tenant": self.tenant,
                "pipeline": self.pipeline,
                "document": self.documents[source],
                "parts": sorted(parts),
            },
        )
        return set(parts)
