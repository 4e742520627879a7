-- name: list_quotas
-- Every quota key with its limits, its minute, and who shares it; the tenant's own pipelines first.
SELECT q.quota_key, q.calls_per_minute, q.tokens_per_minute, q.uses_defaults, s.calls_per_minute, s.tokens_per_minute,
       s.calls_used, s.tokens_used, s.cooling_seconds, s.cooldown_reason, s.binds,
       coalesce((SELECT array_agg(CASE WHEN p.tenant_id = %(tenant_id)s THEN p.name ELSE t.slug || '/' || p.name END
                                  ORDER BY p.tenant_id <> %(tenant_id)s, t.slug, p.name)
                   FROM embedmill.pipelines p JOIN embedmill.tenants t ON t.id = p.tenant_id
                  WHERE p.quota_key = q.quota_key), '{}')
  FROM embedmill.quotas q
 CROSS JOIN LATERAL embedmill.quota_state(q.quota_key) AS s
 WHERE %(quota_key)s::text IS NULL OR q.quota_key = %(quota_key)s::text
 ORDER BY q.quota_key;

-- name: has_quota
-- Whether there is such a key.
SELECT 1 FROM embedmill.quotas WHERE quota_key = %(quota_key)s;

-- name: lock_quota
-- What a key says for itself.
SELECT calls_per_minute, tokens_per_minute, uses_defaults
  FROM embedmill.quotas WHERE quota_key = %(quota_key)s FOR UPDATE;

-- name: set_quota
-- Its limits from now on; what was granted within the last minute counts against them.
UPDATE embedmill.quotas
   SET calls_per_minute = %(calls_per_minute)s, tokens_per_minute = %(tokens_per_minute)s,
       uses_defaults = %(uses_defaults)s
 WHERE quota_key = %(quota_key)s;

-- name: list_tenants
-- Tenants with what they may and what they have, from counts.
SELECT t.slug, t.weight, t.max_processing_items,
       (SELECT count(*) FROM embedmill.pipelines p WHERE p.tenant_id = t.id), c.pending, c.processing
  FROM embedmill.tenants t
 CROSS JOIN LATERAL embedmill.count_embedding_jobs(t.id) AS c
 WHERE %(slug)s::text IS NULL OR t.slug = %(slug)s::text
 ORDER BY t.slug;

-- name: create_tenant
-- A tenant; nothing where the name is taken.
INSERT INTO embedmill.tenants (slug, weight, max_processing_items)
VALUES (%(slug)s, %(weight)s, %(max_processing_items)s)
ON CONFLICT (slug) DO NOTHING RETURNING id;

-- name: lock_tenant
-- What a tenant may.
SELECT id, weight, max_processing_items FROM embedmill.tenants WHERE slug = %(slug)s FOR UPDATE;

-- name: set_tenant
-- What it may from now on: claims look each time.
UPDATE embedmill.tenants SET weight = %(weight)s, max_processing_items = %(max_processing_items)s
 WHERE slug = %(slug)s;
