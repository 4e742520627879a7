-- Row-level security: which tenant's rows a session may see. Forced on every table that has a tenant_id, whoever owns
-- it. The owner (workers, sweeps, the command line) serves all tenants and has a policy of its own; every other role
-- sees the rows of the tenant that its transaction, or its claims, name: and none without one.

-- What the service connects as. Roles belong to the whole server: another database may have made them already.
DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['embedmill_service', 'embedmill_reader'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', v_role);
            END IF;
            IF NOT pg_has_role(current_user, v_role, 'MEMBER') THEN
                EXECUTE format('GRANT %I TO CURRENT_USER', v_role);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;  -- somebody else has just made it
            WHEN insufficient_privilege THEN
                RAISE WARNING 'the role % could not be made: the service (embedmill up) needs it; as an administrator: CREATE ROLE % NOLOGIN; GRANT % TO %',
                    v_role, v_role, v_role, current_user;
        END;
    END LOOP;
END
$$;

-- The tenant of this transaction: set by the service, or claimed by a token that PostgREST (Supabase) has checked.
-- Of the claims, those that a user may write himself (user_metadata) are not believed.
CREATE OR REPLACE FUNCTION embedmill.current_tenant_id() RETURNS integer
LANGUAGE sql STABLE AS $$
    -- An unset setting is '' after a transaction that set it locally, hence nullif.
    SELECT coalesce(
        nullif(current_setting('embedmill.tenant_id', true), '')::integer,
        (SELECT coalesce(c.claims ->> 'tenant_id', c.claims #>> '{app_metadata,tenant_id}')::integer
           FROM (SELECT nullif(current_setting('request.jwt.claims', true), '')::jsonb AS claims) c))
$$;

-- Lets the service's role work with a table, and the readers' role read it, where these roles exist.
CREATE OR REPLACE FUNCTION embedmill.grant_table(p_table regclass, p_service text, p_is_readable boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_service <> '' AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'embedmill_service') THEN
        EXECUTE format('GRANT %s ON %s TO embedmill_service', p_service, p_table);
    END IF;
    IF p_is_readable AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'embedmill_reader') THEN
        EXECUTE format('GRANT SELECT ON %s TO embedmill_reader', p_table);
    END IF;
END
$$;

-- Puts a table under forced row-level security by this condition, with the owner's way around it. Conditions ask for
-- the tenant in a sub-select: it is evaluated once then, not for each row, and serves an index.
CREATE OR REPLACE FUNCTION embedmill.protect_table(p_table regclass, p_condition text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_owner text := (SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = p_table);
    v_comment text := format('%s by %s', p_condition, v_owner);
BEGIN
    -- Each migration comes by here: what stands as wanted takes no lock, for which users' writes to their own tables
    -- would wait (record_changes).
    IF (SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = p_table)
       AND (SELECT array_agg(obj_description(o.oid, 'pg_policy') ORDER BY o.polname)
              FROM pg_policy o WHERE o.polrelid = p_table AND o.polname IN ('operator', 'own_tenant'))
           = ARRAY[v_comment, v_comment] THEN
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', p_table);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', p_table);
    EXECUTE format('DROP POLICY IF EXISTS own_tenant ON %s', p_table);
    EXECUTE format('CREATE POLICY own_tenant ON %s USING (%s)', p_table, p_condition);
    EXECUTE format('DROP POLICY IF EXISTS operator ON %s', p_table);
    EXECUTE format('CREATE POLICY operator ON %s TO %s USING (true)', p_table, v_owner);
    EXECUTE format('COMMENT ON POLICY own_tenant ON %s IS %L', p_table, v_comment);
    EXECUTE format('COMMENT ON POLICY operator ON %s IS %L', p_table, v_comment);
END
$$;

DO $$
DECLARE
    v_table regclass;
    v_name text;
BEGIN
    -- Every table with a tenant_id, also one that a later migration makes.
    FOR v_table, v_name IN
        SELECT c.oid::regclass, c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'embedmill'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND a.attname = 'tenant_id' AND NOT a.attisdropped
    LOOP
        PERFORM embedmill.protect_table(v_table, 'tenant_id = (SELECT embedmill.current_tenant_id())');
        PERFORM embedmill.grant_table(
            v_table,
            CASE WHEN v_name = 'audit_log' THEN 'SELECT, INSERT' ELSE 'SELECT, INSERT, UPDATE, DELETE' END,
            v_name IN ('pipelines', 'generations', 'knowledge_documents', 'knowledge_document_texts',
                       'knowledge_chunks', 'record_sources', 'table_sources', 'ingestion_jobs', 'embedding_queue',
                       'embedding_queue_history',
                       'llm_usage_log', 'dead_letters'));
    END LOOP;
    PERFORM embedmill.protect_table('embedmill.tenants', 'id = (SELECT embedmill.current_tenant_id())');
    PERFORM embedmill.grant_table('embedmill.tenants', 'SELECT, UPDATE', true);
    PERFORM embedmill.protect_table('embedmill.coverage_counters',
        'EXISTS (SELECT FROM embedmill.generations g WHERE g.id = generation_id)');  -- of which one sees one's own
    PERFORM embedmill.grant_table('embedmill.coverage_counters', 'SELECT, INSERT, UPDATE', true);
    FOR v_table IN
        SELECT c.oid::regclass FROM pg_class c
         WHERE c.relnamespace = 'embedmill'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^vectors_[0-9]+$'
    LOOP
        PERFORM embedmill.protect_table(
            v_table,
            format('(SELECT embedmill.current_tenant_id()) = %s',
                   (SELECT tenant_id FROM embedmill.generations
                     WHERE id = substring(v_table::text FROM '[0-9]+$')::integer)));
        PERFORM embedmill.grant_table(v_table, 'SELECT, INSERT, DELETE', true);
    END LOOP;
    FOR v_table IN SELECT format('embedmill.%I', view_name)::regclass FROM embedmill.pipelines
                    WHERE to_regclass(format('embedmill.%I', view_name)) IS NOT NULL
    LOOP
        PERFORM embedmill.grant_table(v_table, 'SELECT', true);
    END LOOP;
    -- What belongs to no tenant, as far as the service needs it.
    -- A quota's key names a pipeline: one sees those that one's own pipelines share.
    PERFORM embedmill.protect_table('embedmill.quotas',
        'EXISTS (SELECT FROM embedmill.pipelines p WHERE p.quota_key = quotas.quota_key)');
    PERFORM embedmill.grant_table('embedmill.quotas', 'SELECT, UPDATE', false);
    PERFORM embedmill.grant_table('embedmill.embedding_queue_config', 'SELECT', false);
    PERFORM embedmill.grant_table('embedmill.embedding_queue_workers', 'SELECT', false);
    PERFORM embedmill.grant_table('embedmill.turn_clock', 'SELECT', false);
    FOR v_name IN SELECT rolname FROM pg_roles WHERE rolname IN ('embedmill_service', 'embedmill_reader') LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA embedmill TO %I', v_name);
    END LOOP;
END
$$;
