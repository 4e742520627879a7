-- name: authenticate
-- Whose key this is; no row where it is nobody's.
SELECT tenant_id, tenant_slug, key_id, role::text FROM embedmill.authenticate_key(%(key_hmac)b);

-- name: find_tenant
-- A tenant by its name.
SELECT id FROM embedmill.tenants WHERE slug = %(slug)s;

-- name: tenant_names
-- What tenants there are, for the message that says so.
SELECT coalesce(string_agg(slug, ', ' ORDER BY slug), 'none') FROM embedmill.tenants;

-- name: create
-- A key of a tenant; the key itself is not told to the database.
INSERT INTO embedmill.api_keys (tenant_id, name, role, prefix, key_hmac, created_by, expires_at)
VALUES (%(tenant_id)s, %(name)s, %(role)s, %(prefix)s, %(key_hmac)b, %(created_by)s,
        clock_timestamp() + make_interval(secs => %(expires_in_seconds)s::float8))
RETURNING id;

-- name: list
-- Keys, newest first: of a tenant, or of all (NULL).
SELECT k.id, t.slug, k.name, k.role::text, k.prefix,
       CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= now() THEN 'expired' ELSE 'active' END,
       k.created_at, k.created_by, k.expires_at, k.last_used_at, k.revoked_at
  FROM embedmill.api_keys k JOIN embedmill.tenants t ON t.id = k.tenant_id
 WHERE (%(tenant_id)s::integer IS NULL OR k.tenant_id = %(tenant_id)s::integer)
   AND (%(key_id)s::uuid IS NULL OR k.id = %(key_id)s::uuid)
 ORDER BY k.created_at DESC, k.id;

-- name: revoke
-- From now on nobody gets in with it. Its row is locked first: of two who revoke it, one has done so.
UPDATE embedmill.api_keys SET revoked_at = clock_timestamp()
 WHERE id = %(key_id)s AND revoked_at IS NULL
   AND (%(tenant_id)s::integer IS NULL OR tenant_id = %(tenant_id)s::integer)
   AND role <= %(revoker)s::embedmill.api_role
RETURNING tenant_id, name, prefix;

-- name: act_as
-- Whom the audit log is to name, to the end of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: record_action
-- One act in the audit log.
SELECT embedmill.record_action(%(tenant_id)s, %(action)s, %(subject)s, NULL, %(new_value)s::jsonb);

-- name: has_keys
-- Whether anybody could get in with a key at all.
SELECT EXISTS (SELECT FROM embedmill.api_keys
                WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp()));
