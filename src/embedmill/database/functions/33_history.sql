-- The history of ended items: its partitions, and the view over what lives and what has ended.

-- One partition of history for each day, a week ahead; returns how many were made. Where rows of a day already
-- stand in the rest partition (nobody made the day's in time), they stay there: nothing is lost, only dropped later.
-- The lock it needs shuts out readers and is waited for briefly: while it waits, every completion waits behind it.
-- With a week in hand, what somebody's long read holds up is made the next time.
CREATE OR REPLACE FUNCTION embedmill.ensure_history_partitions() RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '1s' AS $$
DECLARE
    v_day date;
    v_made integer := 0;
BEGIN
    FOR v_day IN SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, 7) AS n LOOP
        IF to_regclass('embedmill.embedding_queue_history_' || to_char(v_day, 'YYYYMMDD')) IS NULL THEN
            BEGIN
                EXECUTE format(
                    'CREATE TABLE embedmill.%I PARTITION OF embedmill.embedding_queue_history '
                    'FOR VALUES FROM (%L) TO (%L)',
                    'embedding_queue_history_' || to_char(v_day, 'YYYYMMDD'),
                    v_day::text || ' 00:00:00+00', (v_day + 1)::text || ' 00:00:00+00');
                v_made := v_made + 1;
            EXCEPTION
                WHEN check_violation OR duplicate_table THEN
                    NULL;
                WHEN lock_not_available THEN
                    EXIT;
            END;
        END IF;
    END LOOP;
    RETURN v_made;
END
$$;

-- What the API and the operators see of an item's life, live or ended.
CREATE OR REPLACE VIEW embedmill.embedding_jobs WITH (security_invoker = true) AS
    SELECT q.id, q.tenant_id, q.generation_id, q.document_id, q.source_type, q.source_id, q.part,
           q.status, q.priority, q.operation, q.retry_count, q.error_message, q.estimated_tokens,
           q.actual_tokens, NULL::integer AS vector_count, q.created_at, q.processing_started_at,
           NULL::timestamptz AS processing_completed_at, q.worker_id, q.job_id, q.batch_id, q.metadata
      FROM embedmill.embedding_queue q
    UNION ALL
    SELECT h.id, h.tenant_id, h.generation_id, h.document_id, h.source_type, h.source_id, h.part,
           h.status, h.priority, h.operation, h.retry_count, h.error_message, h.estimated_tokens,
           h.actual_tokens, h.vector_count, h.created_at, h.processing_started_at,
           h.processing_completed_at, h.worker_id, h.job_id, h.batch_id, h.metadata
      FROM embedmill.embedding_queue_history h;
SELECT embedmill.grant_table('embedmill.embedding_jobs', 'SELECT', true);
