-- name: make_table
-- A user's table, its first rows there before anybody follows it: they are what is updated later.
CREATE TABLE public.notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL, body text NOT NULL);

-- name: fill_table
INSERT INTO public.notes (title, body)
SELECT 'Note ' || n, 'Number ' || n || repeat(' mill river wheel stone', 12) FROM generate_series(1, %(rows)s) AS n;

-- name: insert_row
INSERT INTO public.notes (title, body) VALUES (%(title)s, %(body)s) RETURNING id;

-- name: update_row
UPDATE public.notes SET title = %(title)s, body = %(body)s WHERE id = %(id)s RETURNING id;

-- name: has_index
SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE c.relname = %(name)s AND i.indisvalid);

-- name: latencies
-- For each row, in milliseconds, from the commit of its last write to the commit of its vector, as the server wrote both
-- down (track_commit_timestamp); and where the time went: until a reader's transaction made the item, until a worker
-- claimed it, until what the provider said was written, until that was committed.
SELECT extract(epoch FROM v.at - w.at)::float8 * 1000 AS searchable,
       extract(epoch FROM h.created_at - w.at)::float8 * 1000 AS read,
       extract(epoch FROM h.processing_started_at - h.created_at)::float8 * 1000 AS claimed,
       extract(epoch FROM h.processing_completed_at - h.processing_started_at)::float8 * 1000 AS embedded,
       extract(epoch FROM v.at - h.processing_completed_at)::float8 * 1000 AS committed
  FROM public.notes n
 CROSS JOIN LATERAL pg_xact_commit_timestamp(n.xmin) AS w (at)
  JOIN embedmill.knowledge_documents d ON d.source_id = n.id::text AND d.record_source_id = %(source)s
  JOIN embedmill.knowledge_chunks c ON c.document_id = d.id
  JOIN {vectors} e ON e.chunk_id = c.id
 CROSS JOIN LATERAL pg_xact_commit_timestamp(e.xmin) AS v (at)
 CROSS JOIN LATERAL (
    SELECT created_at, processing_started_at, processing_completed_at FROM embedmill.embedding_queue_history
     WHERE document_id = d.id ORDER BY id DESC LIMIT 1) h
 WHERE n.id = ANY (%(ids)s) AND c.text LIKE '%%' || n.body || '%%';

-- name: call_latency
-- What the ledger says of the provider's calls in this run.
SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) FROM embedmill.llm_usage_log
 WHERE created_at >= %(since)s;
