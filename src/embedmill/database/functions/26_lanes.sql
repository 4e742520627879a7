-- The lanes that are open to a claim of one item (30_claiming.sql), kept by triggers on what they follow from:
-- tenants, pipelines, generations, the configuration. All of these change by a person's act, and seldom.

-- Puts embedmill.claim_lanes right. One at a time, and looking only after the lock is had: two changes at once must
-- not each write what it saw before the other.
CREATE OR REPLACE FUNCTION embedmill.refresh_claim_lanes() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE embedmill.claim_lanes IN SHARE ROW EXCLUSIVE MODE;
    WITH wanted AS (
        SELECT g.id AS generation_id, lane.priority, t.id AS tenant_id, (w.value ->> lane.priority::text)::double precision AS weight,
               a.value::double precision AS aging_seconds, r.has_rivals,
               NOT r.has_rivals AND count(*) OVER (PARTITION BY p.id, lane.priority) = 1 AS is_alone,
               t.slug AS tenant, p.name AS pipeline, p.quota_key, s.value::double precision AS lease_seconds
          FROM embedmill.generations g
          JOIN embedmill.pipelines p ON p.id = g.pipeline_id
          JOIN embedmill.tenants t ON t.id = g.tenant_id
          JOIN embedmill.embedding_queue_config w ON w.key = 'priority_weights'
          JOIN embedmill.embedding_queue_config a ON a.key = 'priority_aging_seconds'
          JOIN embedmill.embedding_queue_config s ON s.key = 'lease_seconds'
         CROSS JOIN (SELECT count(*) > 1 AS has_rivals FROM embedmill.tenants) r
         CROSS JOIN unnest(enum_range(NULL::embedmill.queue_priority)) AS lane (priority)
         WHERE (SELECT embedmill.queue_enabled()) AND p.paused_at IS NULL AND t.max_processing_items IS NULL
    ), closed AS (
        DELETE FROM embedmill.claim_lanes l
         WHERE NOT EXISTS (SELECT FROM wanted n
                            WHERE n.generation_id = l.generation_id AND n.priority = l.priority)
    )
    INSERT INTO embedmill.claim_lanes AS l
        (generation_id, priority, tenant_id, weight, aging_seconds, has_rivals, is_alone, tenant, pipeline, quota_key,
         lease_seconds)
    SELECT generation_id, priority, tenant_id, weight, aging_seconds, has_rivals, is_alone, tenant, pipeline, quota_key,
           lease_seconds
      FROM wanted
    ON CONFLICT (generation_id, priority) DO UPDATE
       SET weight = excluded.weight, aging_seconds = excluded.aging_seconds, has_rivals = excluded.has_rivals,
           is_alone = excluded.is_alone, tenant = excluded.tenant, pipeline = excluded.pipeline,
           quota_key = excluded.quota_key, lease_seconds = excluded.lease_seconds
     WHERE l IS DISTINCT FROM excluded;
END
$$;

CREATE OR REPLACE FUNCTION embedmill.claim_lanes_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM embedmill.refresh_claim_lanes();
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER claim_lanes_changed
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF slug, max_processing_items ON embedmill.tenants
    FOR EACH STATEMENT EXECUTE FUNCTION embedmill.claim_lanes_changed();
CREATE OR REPLACE TRIGGER claim_lanes_changed
    AFTER DELETE OR TRUNCATE OR UPDATE OF name, quota_key, paused_at ON embedmill.pipelines
    FOR EACH STATEMENT EXECUTE FUNCTION embedmill.claim_lanes_changed();
CREATE OR REPLACE TRIGGER claim_lanes_changed
    AFTER INSERT OR DELETE OR TRUNCATE ON embedmill.generations
    FOR EACH STATEMENT EXECUTE FUNCTION embedmill.claim_lanes_changed();
CREATE OR REPLACE TRIGGER claim_lanes_changed
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF value ON embedmill.embedding_queue_config
    FOR EACH STATEMENT EXECUTE FUNCTION embedmill.claim_lanes_changed();

-- For a database that had its tenants and pipelines before it had these triggers.
DO $$
BEGIN
    PERFORM embedmill.refresh_claim_lanes();
END
$$;
