-- What a person does to many items is one row of the audit log, which counts with every step (queue/acting.py).

-- Writes how far an act has come into the row that it has begun: of this tenant, by the same person, within a day. The
-- service may add to the audit log and change nothing of it but this.
CREATE OR REPLACE FUNCTION embedmill.advance_record(p_record_id bigint, p_new_value jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE embedmill.audit_log SET new_value = p_new_value
     WHERE id = p_record_id AND actor = embedmill.current_actor() AND at > now() - interval '1 day'
       AND (embedmill.current_tenant_id() IS NULL OR tenant_id = embedmill.current_tenant_id())
$$;
REVOKE ALL ON FUNCTION embedmill.advance_record(bigint, jsonb) FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'embedmill_service') THEN
        GRANT EXECUTE ON FUNCTION embedmill.advance_record(bigint, jsonb) TO embedmill_service;
        -- Where the items of this moment end: what is enqueued later is not meant by whoever acts now.
        GRANT SELECT ON SEQUENCE embedmill.embedding_queue_id_seq TO embedmill_service;
    END IF;
END
$$;
