-- name: days
-- A partition of the history for each of the last days, as the leader makes them.
DO $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    FOR n IN 1..90 LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS embedmill.%I PARTITION OF embedmill.embedding_queue_history '
                       'FOR VALUES FROM (%L) TO (%L)',
                       'embedding_queue_history_' || to_char(today - n, 'YYYYMMDD'),
                       today - n || ' 00:00:00+00', today - n + 1 || ' 00:00:00+00');
    END LOOP;
END $$;

-- name: users_table
-- A table of users', which a source is made of.
CREATE TABLE {name} (id bigint PRIMARY KEY, title text, body text);

-- name: users_rows
INSERT INTO {name} SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, 100) AS n;

-- name: sources
-- Tables and feeds, dealt out to the pipelines of one tenant.
INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name, template, rows, documents, trouble, paused_at)
SELECT %(tenant_id)s, (%(pipelines)s::integer[])[n %% cardinality(%(pipelines)s::integer[]) + 1],
       CASE WHEN n %% 2 = 0 THEN 'table' ELSE 'shards' END, CASE WHEN n %% 2 = 0 THEN 'public.crowd_' ELSE 'feed-' END || n, '$title', 2000 + n, 1000 + n,
       CASE WHEN n %% 50 = 7 THEN 'its table is gone' END, CASE WHEN n %% 40 = 3 THEN now() END
  FROM generate_series(1, %(sources)s) AS n;

-- name: tables
INSERT INTO embedmill.table_sources (record_source_id, tenant_id, relation, key_columns, key_types, columns)
SELECT id, tenant_id, name::regclass, '{id}', '{bigint}', '{title,body}'
  FROM embedmill.record_sources WHERE kind = 'table';

-- name: backfills
INSERT INTO embedmill.backfills (record_source_id, tenant_id, started_at, ended_at, end_reason, rows_walked, rows_read, rows_per_second)
SELECT id, tenant_id, now() - interval '1 hour', CASE WHEN id %% 4 > 0 THEN now() END,
       CASE WHEN id %% 4 > 0 THEN 'all rows are read' END, 1000, 1000, 100
  FROM embedmill.record_sources WHERE kind = 'table';

-- name: documents
-- Uploads, and rows of sources. One upload in 1,000 is the small tenant's, one in 20 one of the others'; some cannot
-- be read.
INSERT INTO embedmill.knowledge_documents
    (tenant_id, pipeline_id, source_type, source_id, name, title, media_type, size_bytes, content_hash, chunk_count,
     error_reason, error_message, record_source_id, created_at, updated_at)
SELECT p.tenant_id, p.id, 'upload', md5(k.n::text), 'report ' || k.n || '.pdf', 'Report ' || k.n, 'application/pdf', 100000,
       sha256(convert_to(k.n::text, 'UTF8')), %(chunks)s, CASE WHEN k.n %% 200 = 9 THEN 'encrypted' END,
       CASE WHEN k.n %% 200 = 9 THEN 'it needs a password' END, 0,
       now() - k.n * interval '5 minutes', now() - k.n * interval '5 minutes'
  FROM (SELECT n, CASE WHEN n %% greatest(%(uploads)s / 20, 2) = 0 THEN %(small_pipelines)s::integer[]
                       WHEN n %% 20 = 1 THEN %(other_pipelines)s::integer[]
                       ELSE %(large_pipelines)s::integer[] END AS pipelines
          FROM generate_series(1, %(uploads)s) AS n) k
  JOIN embedmill.pipelines p ON p.id = k.pipelines[k.n / 20 %% cardinality(k.pipelines) + 1]
UNION ALL
SELECT s.tenant_id, s.pipeline_id, s.name, 'row ' || n, 'row ' || n, NULL, 'text/plain', 1000,
       sha256(convert_to('row' || n, 'UTF8')), 1, CASE WHEN n %% 300 = 9 THEN 'too_large' END,
       CASE WHEN n %% 300 = 9 THEN 'it is too large' END, s.id, now(), now()
  FROM (SELECT *, row_number() OVER (ORDER BY id) AS place, count(*) OVER () AS of FROM embedmill.record_sources) s
  JOIN generate_series(1, %(records)s) AS n ON n %% s.of + 1 = s.place;

-- name: texts
INSERT INTO embedmill.knowledge_document_texts (document_id, tenant_id, text)
SELECT id, tenant_id, repeat('A sentence of the report, and another one. ', 50)
  FROM embedmill.knowledge_documents WHERE record_source_id = 0 AND error_reason IS NULL;

-- name: chunks
INSERT INTO embedmill.knowledge_chunks
    (tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset, token_count, text_config, content_hash,
     place_kind, place_first, place_last, heading_path, error_reason, record_source_id, text)
SELECT d.tenant_id, d.pipeline_id, d.id, n, n * 400, n * 400 + 400, 90, 'simple',
       substring(sha256(convert_to(d.id || '/' || n, 'UTF8')) FROM 1 FOR 16), 'page', n + 1, n + 1, '{Chapter}',
       CASE WHEN d.id %% 500 = 3 AND n = 0 THEN 'input_rejected' END, d.record_source_id,
       'On subject' || d.id %% 500 || ' and matter' || (d.id + n) %% 701 || ' the committee found that item ' || d.id
       || ' of part ' || n || ' had been left as it was, and resolved to look at it again in the coming year.'
  FROM embedmill.knowledge_documents d CROSS JOIN LATERAL generate_series(0, d.chunk_count - 1) AS n
 WHERE d.error_reason IS NULL;

-- name: vectors
-- Most chunks have theirs.
INSERT INTO {vectors} (chunk_id, document_id, input_hash, embedding)
SELECT c.id, c.document_id, c.content_hash, ARRAY(SELECT ((c.id * k) %% 101 - 50)::real / 100 + 0.01 FROM generate_series(1, {dimensions}) AS k)::vector
  FROM embedmill.knowledge_chunks c
 WHERE c.pipeline_id = {pipeline_id} AND c.error_reason IS NULL AND c.document_id %% 10 < 8;

-- name: coverage
INSERT INTO embedmill.coverage_counters AS k (generation_id, record_source_id, chunks, embedded, unembeddable)
SELECT p.current_generation_id, c.record_source_id, count(*),
       count(*) FILTER (WHERE c.error_reason IS NULL AND c.document_id %% 10 < 8), count(c.error_reason)
  FROM embedmill.knowledge_chunks c JOIN embedmill.pipelines p ON p.id = c.pipeline_id
 GROUP BY 1, 2
ON CONFLICT (generation_id, record_source_id)
   DO UPDATE SET chunks = excluded.chunks, embedded = excluded.embedded, unembeddable = excluded.unembeddable;

-- name: minutes
-- What was embedded in each minute of the last day by some of the sources, and of the last hour by many.
INSERT INTO embedmill.embedding_minutes (minute, generation_id, record_source_id, tenant_id, embedded, unembeddable)
SELECT date_trunc('minute', now()) - m * interval '1 minute', k.generation_id, k.record_source_id, g.tenant_id, 100, m %% 9
  FROM (SELECT *, row_number() OVER (PARTITION BY generation_id ORDER BY record_source_id) AS place
          FROM embedmill.coverage_counters) k
  JOIN embedmill.generations g ON g.id = k.generation_id
  JOIN generate_series(0, 1439) AS m ON k.place <= CASE WHEN m < 60 THEN 20 ELSE 3 END;

-- name: changes
-- Rows of some sources that are to be read.
INSERT INTO embedmill.record_changes (record_source_id, tenant_id, operation, keys)
SELECT s.id, s.tenant_id, 'U', ARRAY(SELECT k::text FROM generate_series(1, 20) AS k)
  FROM embedmill.record_sources s CROSS JOIN generate_series(1, 200) AS n WHERE s.id %% 10 = 1;

-- name: shards
INSERT INTO embedmill.shards (record_source_id, shard_id, tenant_id, version, content)
SELECT s.id, 'row ' || n, s.tenant_id, 1, 'content ' || n
  FROM embedmill.record_sources s CROSS JOIN generate_series(1, 100) AS n WHERE s.kind = 'shards';

-- name: jobs
-- A job for each upload: nearly all completed.
INSERT INTO embedmill.ingestion_jobs
    (tenant_id, pipeline_id, document_id, batch_id, status, total_chunks, embedded_chunks, failed_chunks, total_tokens,
     paid_tokens, cost_usd, error_stage, error_message, created_at, updated_at, completed_at, original_name, original_key,
     media_type, size_bytes, parsing_started_at, preview_ready_at, launched_at, launched_chunks)
SELECT d.tenant_id, d.pipeline_id, d.id, md5('jobs ' || d.id / 50)::uuid, s.status::embedmill.job_status,
       CASE WHEN s.status IN ('staged', 'parsing') THEN 0 ELSE d.chunk_count END,
       CASE s.status WHEN 'completed' THEN d.chunk_count WHEN 'embedding_in_progress' THEN d.chunk_count - 2 ELSE 0 END,
       0, 450, 450, 0.001, CASE WHEN s.status = 'failed' THEN 'parse' END,
       CASE WHEN s.status = 'failed' THEN 'it needs a password' END, d.created_at, d.updated_at,
       CASE WHEN s.status IN ('completed', 'failed', 'cancelled') THEN d.updated_at END, d.name, 'tenants/' || d.id,
       d.media_type, d.size_bytes, d.created_at, d.created_at, d.created_at, 0
  FROM embedmill.knowledge_documents d
 CROSS JOIN LATERAL (SELECT CASE WHEN d.error_reason IS NOT NULL THEN 'failed' WHEN d.id %% 97 = 0 THEN 'cancelled'
                                 WHEN d.id %% 60 = 1 THEN 'staged' WHEN d.id %% 60 = 2 THEN 'chunk_preview_ready'
                                 WHEN d.id %% 30 = 3 THEN 'embedding_in_progress' ELSE 'completed' END AS status) s
 WHERE d.record_source_id = 0;

-- name: staged
INSERT INTO embedmill.parse_queue (job_id, tenant_id, priority)
SELECT id, tenant_id, 'medium' FROM embedmill.ingestion_jobs WHERE status = 'staged';

-- name: places
-- Documents by number, for those who are dealt out to them.
CREATE TEMP TABLE places AS
SELECT row_number() OVER (ORDER BY d.id) AS place, d.id AS document_id, d.tenant_id, p.current_generation_id AS generation_id,
       d.source_type, d.source_id, j.id AS job_id
  FROM embedmill.knowledge_documents d
  JOIN embedmill.pipelines p ON p.id = d.pipeline_id
  LEFT JOIN embedmill.ingestion_jobs j ON j.document_id = d.id;
CREATE UNIQUE INDEX ON places (place);
ANALYZE places;

-- name: ended
-- Items of these documents that have ended, over 90 days: a hundredth failed, another was cancelled, and so were the
-- newest at once, which pages of others must step over.
INSERT INTO embedmill.embedding_queue_history
    (id, tenant_id, generation_id, document_id, part, status, priority, operation, retry_count, max_retries, crash_count,
     estimated_tokens, actual_tokens, vector_count, created_at, processing_started_at, processing_completed_at,
     worker_id, job_id, batch_id, source_type, source_id, error_message, metadata)
SELECT n, d.tenant_id, d.generation_id, d.document_id, 0, s.status::embedmill.queue_status, 'medium', 'INSERT', 0, 3, 0,
       90, 90, 1, e.at - interval '2 s', e.at - interval '1 s', e.at, md5('worker ' || n %% 30)::uuid, d.job_id,
       md5('ended ' || n / 1000)::uuid, d.source_type, d.source_id,
       CASE WHEN s.status = 'failed' THEN 'the provider refused it' END, '{}'
  FROM (SELECT n, now() - (%(ended)s - n) * interval '90 days' / %(ended)s AS at
          FROM generate_series(1, %(ended)s::bigint) AS n) e
 CROSS JOIN LATERAL (SELECT CASE WHEN n > %(ended)s * 0.99 OR n %% 100 = 2 THEN 'cancelled'
                                 WHEN n %% 100 = 1 THEN 'failed' ELSE 'completed' END AS status) s
  JOIN places d ON d.place = e.n %% (%(uploads)s + %(records)s) + 1;

-- name: live
-- Items that wait, some of them for a later time, and one in a thousand that is being worked on.
INSERT INTO embedmill.embedding_queue
    (id, tenant_id, generation_id, document_id, part, first_ordinal, last_ordinal, status, priority, lease_token,
     lease_deadline, worker_id, available_at, created_at, processing_started_at, estimated_tokens, job_id, batch_id,
     source_type, source_id, retry_count, error_message)
OVERRIDING SYSTEM VALUE
SELECT %(ended)s + n, d.tenant_id, d.generation_id, d.document_id, n / (%(uploads)s + %(records)s), 0, 0, s.status::embedmill.queue_status,
       (ARRAY['high', 'medium', 'low'])[n %% 3 + 1]::embedmill.queue_priority,
       CASE WHEN s.status = 'processing' THEN n END, CASE WHEN s.status = 'processing' THEN now() + interval '1 day' END,
       CASE WHEN s.status = 'processing' THEN md5('worker ' || n %% 30)::uuid END,
       now() + CASE WHEN n %% 50 IN (6, 7) THEN interval '1 day' ELSE - n * interval '1 ms' END,
       now() - n * interval '1 ms', CASE WHEN s.status = 'processing' THEN now() END, 90, d.job_id,
       md5('live ' || n / 1000)::uuid, d.source_type, d.source_id, (n %% 50 = 6)::integer,
       CASE WHEN n %% 50 = 6 THEN 'the connection was lost' END
  FROM generate_series(1, %(live)s::bigint) AS n
 CROSS JOIN LATERAL (SELECT CASE WHEN n %% 1000 = 5 THEN 'processing' WHEN n %% 50 = 7 THEN 'rate_limited'
                                 ELSE 'pending' END AS status) s
  JOIN places d ON d.place = n %% (%(uploads)s + %(records)s) + 1;

-- name: counts
INSERT INTO embedmill.queue_counts (generation_id, status, day, tenant_id, items)
SELECT generation_id, 'live', '-infinity'::date, tenant_id, count(*) FROM embedmill.embedding_queue GROUP BY 1, 4
UNION ALL
SELECT generation_id, status::text, (processing_completed_at AT TIME ZONE 'UTC')::date, tenant_id, count(*)
  FROM embedmill.embedding_queue_history GROUP BY 1, 2, 3, 4;

-- name: letters
-- Of whole items and of chunks; one in five is dealt with.
INSERT INTO embedmill.dead_letters
    (tenant_id, generation_id, item_id, document_id, record_source_id, chunk_id, reason, error_message, created_at,
     resolved_at, resolution)
SELECT d.tenant_id, d.generation_id, %(ended)s - n, d.document_id,
       (SELECT w.record_source_id FROM embedmill.knowledge_documents w WHERE w.id = d.document_id),
       CASE WHEN n %% 2 = 1 THEN (SELECT c.id FROM embedmill.knowledge_chunks c
                                   WHERE c.document_id = d.document_id ORDER BY c.ordinal LIMIT 1) END,
       (ARRAY['input_rejected', 'retries_exhausted', 'crash_loop'])[n %% 3 + 1], 'the provider refused it',
       now() - n * interval '10 minutes', CASE WHEN n %% 5 = 0 THEN now() END, CASE WHEN n %% 5 = 0 THEN 'retried' END
  FROM generate_series(1, %(letters)s::bigint) AS n
  JOIN places d ON d.place = (%(ended)s - n) %% (%(uploads)s + %(records)s) + 1;

-- name: calls
-- Over 90 days, the newest now.
INSERT INTO embedmill.llm_usage_log
    (tenant_id, created_at, pipeline_id, generation_id, worker_id, call_id, session_id, user_id, usage_type, action,
     provider, model, inputs, input_tokens, latency_ms, cost_usd, error)
SELECT p.tenant_id, now() - (%(calls)s - c.n) * interval '90 days' / %(calls)s, p.id, p.current_generation_id,
       md5('worker ' || c.n %% 30)::uuid, gen_random_uuid(), NULL, CASE WHEN c.n %% 9 = 0 THEN 'ann' END,
       (ARRAY['internal_ingestion', 'query', 'generation_build', 'backfill:7'])[c.n %% 4 + 1], 'embed', 'openai',
       'stand-in', 10, 1000, 100, CASE WHEN c.n %% 20 > 0 THEN 0.00002 END, CASE WHEN c.n %% 100 = 0 THEN 'it was refused' END
  FROM (SELECT n, CASE WHEN n %% greatest(%(calls)s / 100, 2) = 0 THEN %(small_pipelines)s::integer[]
                       WHEN n %% 20 = 1 THEN %(other_pipelines)s::integer[]
                       ELSE %(large_pipelines)s::integer[] END AS pipelines
          FROM generate_series(1, %(calls)s::bigint) AS n) c
  JOIN embedmill.pipelines p ON p.id = c.pipelines[c.n %% cardinality(c.pipelines) + 1];

-- name: fold
-- As the leader does, until nothing is left.
SELECT embedmill.fold_usage();

-- name: budgets
INSERT INTO embedmill.budgets (tenant_id, job_id, period, limit_usd, spent_usd)
SELECT id, NULL, 'month', 1000, 10 FROM embedmill.tenants
UNION ALL
(SELECT tenant_id, id, 'total', 10, 0.001 FROM embedmill.ingestion_jobs ORDER BY created_at DESC LIMIT 200);

-- name: workers
-- Thirty at work, and those of the last days.
INSERT INTO embedmill.embedding_queue_workers
    (worker_id, hostname, host_id, pid, pid_started_at, status, heartbeat_at, heartbeat_interval_ms, started_at,
     stopped_at, current_work, tasks_processed, chunks_embedded, total_processing_ms, errors, last_error, version)
SELECT md5('worker ' || n)::uuid, 'host-' || n %% 5, 'elsewhere', n, 0,
       CASE WHEN n < 30 THEN 'active' ELSE 'stopped' END::embedmill.worker_status,
       now() - CASE WHEN n < 30 THEN interval '0' ELSE n * interval '5 minutes' END, 3600000, now() - interval '9 days',
       CASE WHEN n >= 30 THEN now() - n * interval '5 minutes' END, CASE WHEN n < 30 THEN 'embedding of crowd' END,
       1000, 100000, 1000000, n %% 3, CASE WHEN n %% 3 > 0 THEN 'the connection was lost' END, '0.6.0'
  FROM generate_series(0, 499) AS n;

-- name: events
INSERT INTO embedmill.events (tenant_id, type, job_id, batch_id, payload, created_at)
SELECT j.tenant_id, 'job.completed', j.id, j.batch_id, '{"jobId": "x"}', now() - n * interval '1 minute'
  FROM embedmill.ingestion_jobs j CROSS JOIN generate_series(1, %(events_of_a_job)s) AS n;

-- name: webhooks
-- Of what never happens here: the service is measured with its pages, not while it sends thousands of calls besides.
INSERT INTO embedmill.webhooks (tenant_id, url, description, event_types)
SELECT t.id, 'http://127.0.0.1:9/hook/' || n, 'hook ' || n, '{migration.failed}' FROM embedmill.tenants t CROSS JOIN generate_series(1, 3) AS n;

-- name: deliveries
INSERT INTO embedmill.webhook_deliveries
    (tenant_id, webhook_id, event_id, event_type, payload, status, attempts, next_attempt_at, response_status, error,
     created_at, ended_at)
SELECT w.tenant_id, w.id, n, 'job.completed', '{"jobId": "x"}',
       CASE WHEN n %% 1000 = 0 THEN 'pending' WHEN n %% 50 = 0 THEN 'failed' ELSE 'delivered' END, 1,
       now() + interval '1 day', 200, CASE WHEN n %% 50 = 0 THEN 'it answered 500' END, now() - n * interval '1 minute',
       CASE WHEN n %% 1000 > 0 THEN now() END
  FROM embedmill.webhooks w JOIN generate_series(1, %(deliveries)s) AS n ON w.tenant_id = %(large)s OR n < 10;

-- name: alerts
INSERT INTO embedmill.alerts (kind, tenant_id, subject, severity, message, numbers, began_at, raised_at, seen_at, resolved_at,
     told_severity, is_end_told)
SELECT 'failure_rate', t.id, 'pipeline ' || n, 'warning', 'many items fail: look at the dead letters', '{}'::jsonb,
       now() - n * interval '1 hour', now() - n * interval '1 hour', now(), CASE WHEN n > 5 THEN now() - n * interval '30 minutes' END,
       'warning', n > 5
  FROM embedmill.tenants t CROSS JOIN generate_series(1, 500) AS n
UNION ALL
SELECT 'no_workers', NULL, '', 'critical', 'no worker is at work', '{}'::jsonb, now(), now(), now(), NULL, 'critical', false;

-- name: audits
INSERT INTO embedmill.audits (tenant_id, pipeline_id, record_source_id, started_at, ended_at, is_repair, findings, actor)
SELECT s.tenant_id, s.pipeline_id, s.id, now() - n * interval '1 day', now() - n * interval '1 day', false,
       '[{"kind": "done_but_no_vector", "count": 3, "mended": 0, "examples": []}]', 'crowd'
  FROM embedmill.record_sources s CROSS JOIN generate_series(1, 5) AS n;

-- name: audit_log
INSERT INTO embedmill.audit_log (at, tenant_id, actor, action, subject, old_value, new_value)
SELECT now() - n * interval '1 minute', t.id, 'crowd', 'config_changed', 'batch_size', '1', '2'
  FROM embedmill.tenants t CROSS JOIN generate_series(1, 1000) AS n;
