-- name: tables_named
-- Every relation that a name may mean: of one part in any schema of users', of two exactly.
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, format('%%I.%%I', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = %(table)s AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s)
   AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'embedmill') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY n.nspname <> 'public', n.nspname;

-- name: name_parts
-- A name as SQL reads it: quoted parts as they are, others in small letters.
SELECT parse_ident(%(name)s);

-- name: names_alike
-- What may have been meant.
SELECT format('%%I.%%I', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE lower(c.relname) = lower(%(table)s) AND c.relkind IN ('r', 'p')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'embedmill') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY 1 LIMIT 3;

-- name: columns
-- The columns of a table: name, type with its modifier, and whether it is computed whenever it is read.
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated = 'v', a.attnum
  FROM pg_attribute a WHERE a.attrelid = %(relation)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum;

-- name: unique_keys
-- What can tell rows apart: the primary key first, then unique indexes over NOT NULL columns, whole and valid.
SELECT i.indisprimary, array_agg(a.attname ORDER BY k.n), array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.n)
  FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = %(relation)s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL AND k.n <= i.indnkeyatts
 GROUP BY i.indexrelid, i.indisprimary
HAVING bool_and(a.attnotnull)
 ORDER BY i.indisprimary DESC, count(*), i.indexrelid;

-- name: rights
-- What our role lacks to keep a table embedded: of the table and all of its partitions and children.
SELECT format('%%s', f.relation::regclass), f.relkind = 'f',
       has_table_privilege(f.relation, 'SELECT'), has_table_privilege(f.relation, 'TRIGGER'),
       %(target)s::text IS NULL OR has_column_privilege(f.relation, %(target)s::text, 'UPDATE'),
       row_security_active(f.relation), current_user::text
  FROM embedmill.table_family(%(relation)s::bigint::oid::regclass) AS f;

-- name: parent
-- The table that this one is a partition or child of.
SELECT format('%%s', i.inhparent::regclass), c.relispartition
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhrelid = %(relation)s::bigint::oid LIMIT 1;

-- name: foreign_casts
-- Columns whose type somebody else has taught to become text: his function would run with our rights.
SELECT a.attname, p.oid::regprocedure::text, pg_get_userbyid(p.proowner)
  FROM pg_attribute a
  JOIN pg_cast k ON k.castsource = a.atttypid AND k.casttarget = 'text'::regtype
  JOIN pg_proc p ON p.oid = k.castfunc
  JOIN pg_roles r ON r.oid = p.proowner
 WHERE a.attrelid = %(relation)s::bigint::oid AND a.attname = ANY (%(columns)s)
   AND NOT r.rolsuper AND r.rolname <> current_user;

-- name: may_use_schema
SELECT has_schema_privilege(%(schema)s, 'USAGE'), current_user::text, quote_ident(%(schema)s);

-- name: check_condition
-- As it is kept, and the columns that it looks at.
SELECT condition, columns FROM embedmill.check_condition(%(relation)s::bigint::oid::regclass, %(condition)s);

-- name: insert_source
INSERT INTO embedmill.record_sources (tenant_id, pipeline_id, kind, name, template, priority)
VALUES (%(tenant_id)s, %(pipeline_id)s, 'table', %(name)s, %(template)s, %(priority)s::embedmill.queue_priority)
RETURNING id;

-- name: insert_table
INSERT INTO embedmill.table_sources
    (record_source_id, tenant_id, relation, key_columns, key_types, columns, metadata_columns, condition,
     target_column, adopts, watched)
VALUES (%(id)s, %(tenant_id)s, %(relation)s::bigint::oid, %(key_columns)s, %(key_types)s, %(columns)s,
        %(metadata_columns)s, %(condition)s, %(target_column)s, %(adopts)s, %(watched)s::jsonb);

-- name: begin_walk
-- All rows from the first on.
SELECT embedmill.begin_walk(%(id)s, false);

-- name: lock_timeout
-- Whoever writes to the table queues up behind us: wait briefly and try again, and end before anybody looks for a
-- deadlock.
SELECT set_config('lock_timeout', '500ms', true);

-- name: attach
SELECT embedmill.attach_table_source(%(id)s);

-- name: detach
SELECT embedmill.detach_table_source(%(id)s);

-- name: count_rows
SELECT embedmill.count_table_source(%(id)s);

-- name: holders
-- Who keeps writers or us waiting at a table: the oldest transactions first.
SELECT a.pid, coalesce(nullif(a.application_name, ''), a.usename, 'unknown'),
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8
  FROM embedmill.table_family(%(relation)s::bigint::oid::regclass) AS f
  JOIN pg_locks l ON l.relation = f.relation AND l.locktype = 'relation' AND l.granted
   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE a.pid <> pg_backend_pid()
 GROUP BY a.pid, a.application_name, a.usename, a.xact_start
 ORDER BY a.xact_start LIMIT 3;

-- name: sources
-- The table sources of a tenant, of one name or all, in one pipeline or all.
SELECT s.id, s.tenant_id, s.pipeline_id, p.name, s.name, s.template, s.priority::text, s.paused_at, s.trouble, s.rows,
       s.documents, s.created_at, t.relation::oid::bigint, c.oid IS NOT NULL, t.key_columns, t.key_types, t.columns,
       t.metadata_columns, t.condition, t.target_column, t.adopts, cardinality(t.relations),
       coalesce(k.chunks, 0), coalesce(k.embedded, 0), coalesce(k.unembeddable, 0),
       CASE WHEN b.started_at IS NULL THEN 'not begun' WHEN b.ended_at IS NULL THEN 'running'
            ELSE 'ended: ' || coalesce(b.end_reason, 'done') END,
       coalesce(b.rows_walked, 0), coalesce(b.rows_read, 0),
       (SELECT count(*) FROM (SELECT FROM embedmill.record_changes x WHERE x.record_source_id = s.id LIMIT 10000) w),
       (SELECT coalesce(sum(greatest(cardinality(w.keys), 1)), 0)::bigint
          FROM (SELECT x.keys FROM embedmill.record_changes x WHERE x.record_source_id = s.id LIMIT 10000) w)
  FROM embedmill.record_sources s
  JOIN embedmill.table_sources t ON t.record_source_id = s.id
  JOIN embedmill.pipelines p ON p.id = s.pipeline_id
  LEFT JOIN pg_class c ON c.oid = t.relation
  LEFT JOIN embedmill.coverage_counters k
    ON k.generation_id = p.current_generation_id AND k.record_source_id = s.id
  LEFT JOIN embedmill.backfills b ON b.record_source_id = s.id
 WHERE s.tenant_id = %(tenant_id)s AND (%(names)s::text[] IS NULL OR s.name = ANY (%(names)s))
   AND (%(pipeline)s::text IS NULL OR p.name = %(pipeline)s)
 ORDER BY s.name, p.name;

-- name: relation_name
-- Under which name a source knows this table, if any.
SELECT s.name FROM embedmill.record_sources s JOIN embedmill.table_sources t ON t.record_source_id = s.id
 WHERE t.relation = %(relation)s::bigint::oid AND s.tenant_id = %(tenant_id)s;

-- name: hold
-- Whoever reads the source takes turns with us.
SELECT id FROM embedmill.record_sources WHERE id = %(id)s AND tenant_id = %(tenant_id)s FOR NO KEY UPDATE;

-- name: pause
UPDATE embedmill.record_sources SET paused_at = coalesce(paused_at, now()) WHERE id = %(id)s;

-- name: resume
UPDATE embedmill.record_sources SET paused_at = NULL WHERE id = %(id)s;

-- name: alter_source
UPDATE embedmill.record_sources
   SET template = %(template)s, priority = %(priority)s::embedmill.queue_priority
 WHERE id = %(id)s;

-- name: alter_table
UPDATE embedmill.table_sources
   SET key_columns = %(key_columns)s, key_types = %(key_types)s, columns = %(columns)s,
       metadata_columns = %(metadata_columns)s, condition = %(condition)s, target_column = %(target_column)s,
       watched = %(watched)s::jsonb
 WHERE record_source_id = %(id)s;

-- name: act_as
-- Who acts, for the audit log of this transaction.
SELECT set_config('embedmill.actor', %(actor)s, true);

-- name: record_action
SELECT embedmill.record_action(%(tenant_id)s, %(action)s, %(subject)s, %(old_value)s::jsonb, %(new_value)s::jsonb);

-- name: check_source
-- Notices what became of one table.
SELECT embedmill.check_table_source(%(id)s);

-- name: delete_left_documents
-- Some documents that an earlier source of this name left behind go; how many there were.
SELECT embedmill.delete_left_documents(%(id)s, %(limit)s);

-- name: delete_documents
-- Some of a source's documents, with their vectors; how many there were.
SELECT embedmill.delete_source_documents(%(id)s, %(limit)s);

-- name: release_documents
-- Some of a source's documents become documents of no source; how many there were.
SELECT embedmill.release_source_documents(%(id)s, %(limit)s);

-- name: delete_source
-- With its table, its changes and its backfill.
WITH changes AS (DELETE FROM embedmill.record_changes WHERE record_source_id = %(id)s)
DELETE FROM embedmill.record_sources WHERE id = %(id)s RETURNING id;

-- name: relation_by_oid
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = %(relation)s::bigint::oid;

-- name: reread
-- All rows are looked at anew, and counted.
SELECT embedmill.reread_table_source(%(id)s);

-- name: adopt_documents
-- Some documents that an earlier source of this name left behind become this one's; how many there were.
SELECT embedmill.adopt_source_documents(%(id)s, %(limit)s);
