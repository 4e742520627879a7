-- name: source
-- A source, as whoever reads it needs it.
SELECT s.id, s.tenant_id, s.pipeline_id, s.kind, s.name, s.template, s.priority::text,
       n.nspname, c.relname, t.key_columns, t.key_types, t.columns, t.metadata_columns, t.condition, t.target_column,
       s.rows IS NOT NULL, s.trouble, t.adopts
  FROM embedmill.record_sources s
  LEFT JOIN embedmill.table_sources t ON t.record_source_id = s.id
  LEFT JOIN pg_class c ON c.oid = t.relation
  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE s.id = %(record_source_id)s;

-- name: end_trouble
UPDATE embedmill.record_sources s SET trouble = NULL
 WHERE s.id = %(record_source_id)s
   AND NOT EXISTS (SELECT FROM embedmill.table_sources t WHERE t.record_source_id = s.id AND t.drift = s.trouble);

-- name: set_trouble
-- Why a source is not read.
UPDATE embedmill.record_sources SET trouble = %(trouble)s
 WHERE id = %(record_source_id)s AND trouble IS DISTINCT FROM %(trouble)s;
