-- name: relations
-- Tables that could be added: those of users, no partitions or children of others. `rows` as the last ANALYZE has them.
SELECT format('%%I.%%I', n.nspname, c.relname), greatest(c.reltuples, 0)::bigint,
       obj_description(c.oid, 'pg_class'),
       coalesce((SELECT array_agg(p.name ORDER BY p.name)
                   FROM embedmill.table_sources t
                   JOIN embedmill.record_sources s ON s.id = t.record_source_id AND s.tenant_id = %(tenant_id)s
                   JOIN embedmill.pipelines p ON p.id = s.pipeline_id
                  WHERE t.relation = c.oid), '{}')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'embedmill') AND n.nspname !~ '^pg_(toast|temp)'
   AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
   AND strpos(lower(n.nspname || '.' || c.relname), lower(%(name)s)) > 0
 ORDER BY n.nspname <> 'public', n.nspname, c.relname
 LIMIT %(limit)s;
