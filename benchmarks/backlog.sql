-- name: fill
-- One document of one chunk, and its item, for each number: as a record that was read leaves them, without jobs and without
-- the document's own text, which the embedding does not read. Items of all three lanes, ready for an hour.
WITH made AS (
    SELECT n, 'Number ' || n || repeat(' mill river wheel stone', 6) AS text
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
), documents AS (
    INSERT INTO embedmill.knowledge_documents (id, tenant_id, pipeline_id, source_type, source_id, name, content_hash,
                                               chunk_count) OVERRIDING SYSTEM VALUE
    SELECT n, %(tenant_id)s, %(pipeline_id)s, 'backlog', n::text, 'document ' || n,
           substring(sha256(convert_to(text, 'UTF8')) FROM 1 FOR 32), 1
      FROM made
), chunks AS (
    INSERT INTO embedmill.knowledge_chunks (id, tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset,
                                            token_count, text_config, content_hash, text) OVERRIDING SYSTEM VALUE
    SELECT n, %(tenant_id)s, %(pipeline_id)s, n, 0, 0, length(text), 30, 'simple',
           substring(sha256(convert_to(text, 'UTF8')) FROM 1 FOR 16), text
      FROM made
)
INSERT INTO embedmill.embedding_queue (id, tenant_id, generation_id, document_id, first_ordinal, last_ordinal, priority,
                                       estimated_tokens, available_at, batch_id, source_type, source_id)
       OVERRIDING SYSTEM VALUE
SELECT n, %(tenant_id)s, %(generation_id)s, n, 0, 0,
       (ARRAY['high', 'medium', 'low']::embedmill.queue_priority[])[n %% 3 + 1], 30,
       now() - interval '1 hour' + n * interval '1 microsecond', md5((n / 500)::text)::uuid, 'backlog', n::text
  FROM made;

-- name: count_filled
-- What the triggers and the queue's functions would have counted.
WITH counted AS (
    INSERT INTO embedmill.queue_changes (tenant_id, generation_id, status, items)
    VALUES (%(tenant_id)s, %(generation_id)s, 'live', %(rows)s)
)
INSERT INTO embedmill.coverage_counters AS k (generation_id, record_source_id, chunks)
VALUES (%(generation_id)s, 0, %(rows)s)
ON CONFLICT (generation_id, record_source_id) DO UPDATE SET chunks = k.chunks + excluded.chunks;

-- name: highest
-- The number of the last document.
SELECT coalesce(max(id), 0) FROM embedmill.knowledge_documents;

-- name: waiting
SELECT count(*) FROM embedmill.embedding_queue WHERE status = 'pending';

-- name: point_at
-- A kept folder's pipeline, and the provider of this run.
UPDATE embedmill.generations SET spec = jsonb_set(spec, '{base_url}', to_jsonb(%(base_url)s::text));

-- name: embedded_by_calls
-- What a worker has embedded since then, and in how many seconds from its first call's end to its last one's.
SELECT coalesce(sum(inputs), 0)::bigint - coalesce((array_agg(inputs ORDER BY id))[1], 0),
       extract(epoch FROM max(created_at) - min(created_at))::float8
  FROM embedmill.llm_usage_log WHERE created_at >= %(since)s;

-- name: server_processes
SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend';

-- name: sizes
SELECT pg_size_pretty(pg_database_size(current_database())),
       pg_size_pretty(pg_total_relation_size('embedmill.embedding_queue'));
