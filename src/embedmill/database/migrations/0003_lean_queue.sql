-- What a claim of one item must know before it looks at the queue, in one place (functions/26_lanes.sql).

-- The lanes that may be claimed from without a further question, each with its weight: of generations whose pipeline is
-- not paused and whose tenant has no cap, while the queue is on. Derived: triggers keep it, and what is not here is
-- looked up at length.
CREATE TABLE embedmill.claim_lanes (
    generation_id  integer NOT NULL,
    priority       embedmill.queue_priority NOT NULL,
    weight         double precision NOT NULL,
    aging_seconds  double precision NOT NULL,
    has_rivals     boolean NOT NULL,             -- whether there are tenants to be fair to: what is claimed is charged
    is_alone       boolean NOT NULL,             -- no rivals, and no other generation of the pipeline
    -- What a claim by the pipeline's name says beside the item.
    tenant         text NOT NULL,
    pipeline       text NOT NULL,
    quota_key      text NOT NULL,
    lease_seconds  double precision NOT NULL,
    PRIMARY KEY (generation_id, priority)
) WITH (fillfactor = 50);
CREATE INDEX claim_lanes_pipeline ON embedmill.claim_lanes (pipeline) WHERE is_alone;
