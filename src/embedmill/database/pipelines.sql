-- name: select_pipelines
-- Pipelines of a tenant with their current generations; by name, by number, by generation, or all (NULL).
SELECT p.id, p.tenant_id, p.name, p.view_name, g.chunk_tokens, g.chunk_overlap, p.text_search_config::text,
       g.price_per_million_tokens, p.quota_key, l.calls_per_minute, l.tokens_per_minute,
       g.id, g.number, g.spec::text, g.recipe_hash, g.dimensions, g.storage, t.weight, p.paused_at,
       q.uses_defaults, g.chunk_set
  FROM embedmill.pipelines p
  JOIN embedmill.quotas q ON q.quota_key = p.quota_key
 CROSS JOIN LATERAL embedmill.quota_limits(q) AS l
  JOIN embedmill.tenants t ON t.id = p.tenant_id
  JOIN embedmill.generations g
    ON g.pipeline_id = p.id
   AND g.id = coalesce(%(generation_id)s::integer, p.current_generation_id)
 WHERE (%(tenant_id)s::integer IS NULL OR p.tenant_id = %(tenant_id)s)
   AND (%(name)s::text IS NULL OR p.name = %(name)s)
   AND (%(pipeline_id)s::integer IS NULL OR p.id = %(pipeline_id)s)
 ORDER BY p.id;

-- name: create_pipeline
-- Makes the pipeline, its quota, its first generation with its table, and its view.
SELECT embedmill.create_pipeline(
    %(tenant_id)s, %(name)s, %(spec)s::jsonb, %(dimensions)s, %(storage)s, %(chunk_tokens)s, %(chunk_overlap)s,
    %(text_search_config)s, %(price)s, %(calls_per_minute)s, %(tokens_per_minute)s, %(quota_key)s,
    %(uses_default_quota)s);

-- name: tenant_id
-- A tenant's number by its name.
SELECT id FROM embedmill.tenants WHERE slug = %(slug)s;
