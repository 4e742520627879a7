-- What scales a fleet from outside (KEDA): one number, for a login that may ask for it and for nothing else.

-- For how many seconds the oldest thing has waited that another worker would help: a document for a parser, an item for
-- a call. Left out is what waits for something else: a pause, a tenant's cap, a quota that binds, a queue that is off.
-- A probe of an index for each tenant, or generation and lane, however much waits. It sees every tenant, and is granted
-- to nobody: docs/how-to/deploy.md says how.
CREATE OR REPLACE FUNCTION embedmill.oldest_waiting_seconds() RETURNS double precision
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
    v_parsing timestamptz;
    v_embedding timestamptz;
BEGIN
    SELECT min(head.available_at) INTO v_parsing
      FROM embedmill.tenants t
     CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
     CROSS JOIN LATERAL (
        SELECT q.available_at FROM embedmill.parse_queue q
         WHERE q.tenant_id = t.id AND q.priority = lane.priority AND q.lease_token IS NULL AND q.available_at <= now()
         ORDER BY q.available_at LIMIT 1) head;
    IF embedmill.queue_enabled() THEN
        SELECT min(head.available_at) INTO v_embedding
          FROM embedmill.generations g
          JOIN embedmill.pipelines p ON p.id = g.pipeline_id
          JOIN embedmill.tenants t ON t.id = g.tenant_id
         CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
         CROSS JOIN LATERAL (
            SELECT q.available_at FROM embedmill.embedding_queue q
             WHERE q.generation_id = g.id AND q.priority = lane.priority
               AND q.status IN ('pending', 'rate_limited') AND q.available_at <= now()
             ORDER BY q.available_at, q.id LIMIT 1) head
         WHERE p.paused_at IS NULL AND NOT (SELECT s.binds FROM embedmill.quota_state(p.quota_key) AS s)
           AND (t.max_processing_items IS NULL
                OR t.max_processing_items > (
                    SELECT count(*)
                      FROM (SELECT FROM embedmill.embedding_queue q
                             WHERE q.status = 'processing' AND q.tenant_id = t.id
                             ORDER BY q.worker_id, q.lease_deadline LIMIT t.max_processing_items) held));
    END IF;
    RETURN greatest(coalesce(extract(epoch FROM now() - least(v_parsing, v_embedding)), 0), 0);
END
$$;
REVOKE ALL ON FUNCTION embedmill.oldest_waiting_seconds() FROM PUBLIC;
