-- What happened, for streams and webhooks: written in the transaction in which it happened, so that neither is ever
-- told of what was not committed, nor misses what was.

-- Appends an event, and for each webhook of the tenant that wants it a delivery.
CREATE OR REPLACE FUNCTION embedmill.record_event(
    p_tenant_id integer, p_type text, p_job_id uuid, p_batch_id uuid, p_payload jsonb)
RETURNS void
LANGUAGE sql AS $$
    WITH event AS (
        INSERT INTO embedmill.events (tenant_id, type, job_id, batch_id, payload)
        VALUES (p_tenant_id, p_type, p_job_id, p_batch_id, p_payload)
        RETURNING id, created_at
    )
    INSERT INTO embedmill.webhook_deliveries (tenant_id, webhook_id, event_id, event_type, payload)
    SELECT p_tenant_id, w.id, e.id, p_type,
           jsonb_build_object('type', p_type, 'timestamp', e.created_at, 'data', p_payload)
      FROM event e
      JOIN embedmill.webhooks w ON w.tenant_id = p_tenant_id AND w.is_active
       AND (w.event_types = '{}' AND p_type IN ('job.completed', 'job.failed', 'job.cancelled', 'batch.completed',
                                                'dead_letter.created', 'budget.reached')
            OR p_type = ANY (w.event_types) OR p_type LIKE 'alert.%' AND w.event_types = '{}')
$$;

-- A job as events tell it. Names are those of the REST API.
CREATE OR REPLACE FUNCTION embedmill.job_event_payload(p_job embedmill.ingestion_jobs) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'jobId', p_job.id, 'documentId', p_job.document_id, 'batchId', p_job.batch_id, 'status', p_job.status,
        'name', p_job.original_name, 'totalChunks', p_job.total_chunks, 'embeddedChunks', p_job.embedded_chunks,
        'failedChunks', p_job.failed_chunks, 'costUsd', p_job.cost_usd, 'errorStage', p_job.error_stage,
        'errorMessage', p_job.error_message, 'metadata', p_job.metadata)
$$;

CREATE OR REPLACE FUNCTION embedmill.job_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM embedmill.record_event(
        NEW.tenant_id, 'job.' || NEW.status, NEW.id, NEW.batch_id, embedmill.job_event_payload(NEW));
    IF NEW.batch_id IS NOT NULL AND NEW.status IN ('completed', 'failed', 'cancelled') THEN
        INSERT INTO embedmill.batch_ends (tenant_id, batch_id) VALUES (NEW.tenant_id, NEW.batch_id);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER job_created AFTER INSERT ON embedmill.ingestion_jobs
    FOR EACH ROW EXECUTE FUNCTION embedmill.job_changed();
CREATE OR REPLACE TRIGGER job_changed AFTER UPDATE OF status ON embedmill.ingestion_jobs
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION embedmill.job_changed();

-- One event for each document and statement, however many of its chunks were refused.
CREATE OR REPLACE FUNCTION embedmill.dead_letters_created() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM embedmill.record_event(
        c.tenant_id, 'dead_letter.created', c.job_id, NULL,
        jsonb_build_object('documentId', c.document_id, 'jobId', c.job_id, 'deadLetters', c.letters,
                           'chunks', c.chunks, 'reason', c.reason, 'errorMessage', c.message))
       FROM (SELECT n.tenant_id, n.document_id, n.reason, count(*) AS letters, count(n.chunk_id) AS chunks,
                    min(n.error_message) AS message,
                    (SELECT j.id FROM embedmill.ingestion_jobs j
                      WHERE j.document_id = n.document_id ORDER BY j.created_at DESC LIMIT 1) AS job_id
               FROM created n GROUP BY n.tenant_id, n.document_id, n.reason) c;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER dead_letters_created AFTER INSERT ON embedmill.dead_letters
    REFERENCING NEW TABLE AS created FOR EACH STATEMENT EXECUTE FUNCTION embedmill.dead_letters_created();

-- Tells of batches of jobs that came to their end: one has ended of late, and none lives. Run by the leader, after the
-- commits that it speaks of: two jobs that end at the same time cannot each take the other for living. Returns how many.
CREATE OR REPLACE FUNCTION embedmill.complete_batches() RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v record;
    v_count integer := 0;
BEGIN
    FOR v IN
        WITH ended AS (DELETE FROM embedmill.batch_ends RETURNING tenant_id, batch_id)
        SELECT DISTINCT e.tenant_id, e.batch_id FROM ended e
         WHERE NOT EXISTS (SELECT FROM embedmill.ingestion_jobs j
                            WHERE j.batch_id = e.batch_id AND j.tenant_id = e.tenant_id
                              AND j.status NOT IN ('completed', 'failed', 'cancelled'))
    LOOP
        PERFORM embedmill.record_event(
            v.tenant_id, 'batch.completed', NULL, v.batch_id,
            (SELECT jsonb_build_object(
                        'batchId', v.batch_id, 'jobs', count(*),
                        'completed', count(*) FILTER (WHERE j.status = 'completed'),
                        'failed', count(*) FILTER (WHERE j.status = 'failed'),
                        'cancelled', count(*) FILTER (WHERE j.status = 'cancelled'),
                        'totalChunks', sum(j.total_chunks), 'embeddedChunks', sum(j.embedded_chunks),
                        'failedChunks', sum(j.failed_chunks),
                        'costUsd', CASE WHEN count(*) = count(j.cost_usd) THEN sum(j.cost_usd) END)
               FROM embedmill.ingestion_jobs j WHERE j.batch_id = v.batch_id AND j.tenant_id = v.tenant_id));
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END
$$;
