-- What a claim of one item must know before it looks at the queue, in one place (functions/26_lanes.sql).

-- The lanes that may be claimed from without a further question, each with its weight: of generations whose pipeline is
-- not paused and whose tenant has no cap, while the queue is on. Derived: triggers keep it, and what is not here is
-- looked up at length.
CREATE TABLE embedmill.claim_lanes (
    generation_id  integer NOT NULL,
    priority       embedmill.queue_priority NOT NULL,
    tenant_id      integer NOT NULL,
    weight         double precision NOT NULL,    -- of priority_weights
    aging_seconds  double precision NOT NULL,    -- priority_aging_seconds
    has_rivals     boolean NOT NULL,             -- whether there are tenants to be fair to: what is claimed is charged
    is_alone       boolean NOT NULL,             -- no rivals, and no other generation of the pipeline
    tenant         text NOT NULL,                -- its slug: what a claim by a pipeline's name says beside the item
    pipeline       text NOT NULL,                -- its name
    quota_key      text NOT NULL,
    lease_seconds  double precision NOT NULL,    -- lease_seconds of the configuration
    PRIMARY KEY (generation_id, priority)
) WITH (fillfactor = 50);
CREATE INDEX claim_lanes_pipeline ON embedmill.claim_lanes (pipeline) WHERE is_alone;

-- A check's text is read and compiled by each statement that writes, and of a claim this one was a twentieth: the same
-- words in a function are compiled once in a session.
CREATE FUNCTION embedmill.is_live_item(
    p_status embedmill.queue_status, p_lease_token bigint, p_worker_id uuid) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN p_status = 'processing' THEN p_lease_token IS NOT NULL AND p_worker_id IS NOT NULL
                ELSE p_status < 'completed' AND p_lease_token IS NULL AND p_worker_id IS NULL END;
END
$$;
ALTER TABLE embedmill.embedding_queue
    DROP CONSTRAINT embedding_queue_check,
    ADD CONSTRAINT embedding_queue_check CHECK (embedmill.is_live_item(status, lease_token, worker_id));
