-- name: settings
-- The same text for the same value, whoever reads it and with whatever settings: for this transaction.
SELECT set_config('datestyle', 'ISO, YMD', true), set_config('intervalstyle', 'postgres', true),
       set_config('timezone', 'UTC', true), set_config('extra_float_digits', '1', true),
       set_config('bytea_output', 'hex', true);

-- name: table_rows
-- Rows of a table by their keys. `version` is another for each state of a row. Texts are fetched (and unpacked) for as
-- many rows as have room, and for the first one: of the others there is only their size.
SELECT w.embedmill_key,
       CASE WHEN {has_room} THEN ARRAY[{texts}]::text[] END, CASE WHEN {has_room} THEN {metadata} END,
       concat_ws('/', t.tableoid, t.ctid, t.xmin), ({condition}) IS TRUE, z.size
  FROM unnest(%(keys)s::text[]) AS w (embedmill_key)
  JOIN {table} AS t ON {key_match}
 CROSS JOIN LATERAL (SELECT {bytes} AS size OFFSET 0) AS z
WINDOW listed AS (ROWS UNBOUNDED PRECEDING);

-- name: has_room
-- Whether a row's text is to be fetched.
z.size <= %(max_row_bytes)s AND (
    row_number() OVER listed = 1 OR sum(least(z.size, %(max_row_bytes)s)) OVER listed <= %(load_bytes)s)

-- name: table_wanted
-- Keys whose rows exist and satisfy the condition.
SELECT w.embedmill_key
  FROM unnest(%(keys)s::text[]) AS w (embedmill_key)
  JOIN {table} AS t ON {key_match}
 WHERE ({condition}) IS TRUE;

-- name: table_versions
-- The present states of rows.
SELECT w.embedmill_key, concat_ws('/', t.tableoid, t.ctid, t.xmin)
  FROM unnest(%(keys)s::text[]) AS w (embedmill_key)
  JOIN {table} AS t ON {key_match};

-- name: table_keys
-- The next keys of a walk, in the order of the key, each as text, and column by column. One that is too long to be that
-- of a document is passed over, as the triggers do.
SELECT {key}, {key_texts} FROM {table} AS t
 WHERE {after} AND octet_length({key}) <= 2000
 ORDER BY {key_columns}
 LIMIT %(limit)s;

-- name: shard_rows
-- Shards by their ids, as many as have room; their version changes with each state.
SELECT l.shard_id, CASE WHEN l.is_loaded THEN l.content END, CASE WHEN l.is_loaded THEN l.fields::text END, l.metadata,
       l.version, l.reject_reason, l.is_loaded
  FROM (SELECT s.shard_id, s.content, s.fields, s.metadata::text AS metadata, s.version || '/' || s.xmin::text AS version,
               s.reject_reason,
               sum(coalesce(octet_length(s.content), 0) + coalesce(pg_column_size(s.fields), 0)::bigint) OVER listed
                   <= %(load_bytes)s OR row_number() OVER listed = 1 AS is_loaded
          FROM embedmill.shards s
         WHERE s.record_source_id = %(record_source_id)s AND s.shard_id = ANY (%(keys)s) AND s.deleted_at IS NULL
        WINDOW listed AS (ROWS UNBOUNDED PRECEDING)) AS l;

-- name: shard_versions
SELECT s.shard_id, s.version || '/' || s.xmin::text
  FROM embedmill.shards s
 WHERE s.record_source_id = %(record_source_id)s AND s.shard_id = ANY (%(keys)s) AND s.deleted_at IS NULL;

-- name: shard_keys
-- The next ids of a walk.
SELECT s.shard_id, ARRAY[s.shard_id] FROM embedmill.shards s
 WHERE s.record_source_id = %(record_source_id)s AND s.deleted_at IS NULL
   AND (%(after)s::text[] IS NULL OR s.shard_id > (%(after)s::text[])[1])
 ORDER BY s.shard_id
 LIMIT %(limit)s;
