-- Row-level security: which tenant's rows this session may see. The owner of the schema (embedmill itself)
-- sees all; any other role sees the rows of the tenant set for its transaction, and none without one.

CREATE OR REPLACE FUNCTION embedmill.current_tenant_id() RETURNS integer
LANGUAGE sql STABLE AS $$
    -- An unset setting is '' after a transaction that set it locally, hence nullif.
    SELECT nullif(current_setting('embedmill.tenant_id', true), '')::integer
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'pipelines', 'generations', 'knowledge_documents', 'knowledge_document_texts', 'knowledge_chunks',
        'ingestion_jobs', 'embedding_queue', 'embedding_queue_history', 'llm_usage_log', 'dead_letters']
    LOOP
        EXECUTE format('ALTER TABLE embedmill.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('DROP POLICY IF EXISTS own_tenant ON embedmill.%I', name);
        EXECUTE format('CREATE POLICY own_tenant ON embedmill.%I '
                       'USING (tenant_id = embedmill.current_tenant_id())', name);
    END LOOP;
    ALTER TABLE embedmill.tenants ENABLE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS own_tenant ON embedmill.tenants;
    CREATE POLICY own_tenant ON embedmill.tenants USING (id = embedmill.current_tenant_id());
END
$$;
