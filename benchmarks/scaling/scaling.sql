-- name: pause
UPDATE embedmill.pipelines SET paused_at = now();

-- name: resume
-- And when that was, by the server's clock.
UPDATE embedmill.pipelines SET paused_at = NULL RETURNING clock_timestamp();

-- name: workers
SELECT count(*) FROM embedmill.embedding_queue_workers WHERE status IN ('active', 'idle');

-- name: last_end
-- When the last item ended, and how many chunks they were.
SELECT max(processing_completed_at), sum(vector_count) FROM embedmill.embedding_queue_history;

-- name: log_position
SELECT pg_current_wal_insert_lsn();

-- name: log_since
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %(position)s::pg_lsn)::bigint;

-- name: sizes
-- Bytes on disk of what a chunk leaves behind: its document and texts, itself (with full text and all indexes), its
-- vector without and with the vector index, what the queue's history and the ledger keep of it, and all of it together
-- with the queue's own room, which is used again.
SELECT pg_total_relation_size('embedmill.knowledge_documents')
       + pg_total_relation_size('embedmill.knowledge_document_texts') AS documents,
       pg_total_relation_size('embedmill.knowledge_chunks') AS chunks,
       pg_total_relation_size({vectors}) - coalesce(pg_relation_size({index}), 0) AS vectors,
       coalesce(pg_relation_size({index}), 0) AS index,
       (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
         WHERE inhparent = 'embedmill.embedding_queue_history'::regclass)::bigint
       + pg_total_relation_size('embedmill.llm_usage_log') AS books,
       pg_database_size(current_database()) AS database;

-- name: first_claim
-- When an item was claimed first.
SELECT min(processing_started_at) FROM embedmill.embedding_queue_history;
