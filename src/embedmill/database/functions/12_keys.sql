-- Keys of the API: who presents one is asked here, before it is known whose rows may be seen.

-- The tenant and the role behind a key, by its HMAC; no row where there is no such key, or it is revoked or past its
-- time. Runs as the owner, since no tenant is set yet: it gives away what belongs to this key, and nothing else.
-- That a key was used is noted at most once a minute, and by one of those who use it at once: the others pass by the
-- locked row, so that no request waits for another.
CREATE OR REPLACE FUNCTION embedmill.authenticate_key(p_key_hmac bytea)
RETURNS TABLE (tenant_id integer, tenant_slug text, key_id uuid, role embedmill.api_role)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_used_at timestamptz;
BEGIN
    SELECT t.id, t.slug, k.id, k.role, k.last_used_at INTO tenant_id, tenant_slug, key_id, role, v_used_at
      FROM embedmill.api_keys k JOIN embedmill.tenants t ON t.id = k.tenant_id
     WHERE k.key_hmac = p_key_hmac AND k.revoked_at IS NULL
       AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp());
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- A standby answers too, and notes nothing.
    IF (v_used_at IS NULL OR v_used_at <= clock_timestamp() - interval '1 minute') AND NOT pg_is_in_recovery() THEN
        UPDATE embedmill.api_keys k SET last_used_at = clock_timestamp()
         WHERE k.id = (SELECT o.id FROM embedmill.api_keys o
                        WHERE o.id = authenticate_key.key_id
                          AND (o.last_used_at IS NULL OR o.last_used_at <= clock_timestamp() - interval '1 minute')
                          FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION embedmill.authenticate_key(bytea) FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'embedmill_service') THEN
        GRANT EXECUTE ON FUNCTION embedmill.authenticate_key(bytea) TO embedmill_service;
    END IF;
END
$$;
