-- name: index_statement
-- What makes the index that searches by cosine distance would use, NULL where there is one, or the column has too many
-- dimensions for one. No row: the column is not there. On a partitioned table an index cannot be made concurrently.
SELECT CASE WHEN a.atttypmod <= CASE t.typname WHEN 'halfvec' THEN 4000 ELSE 2000 END
             AND NOT EXISTS (
                 SELECT FROM pg_index i
                   JOIN pg_class x ON x.oid = i.indexrelid
                   JOIN pg_am m ON m.oid = x.relam
                   JOIN pg_opclass o ON o.oid = i.indclass[0]
                  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] = a.attnum AND i.indpred IS NULL
                    AND m.amname IN ('hnsw', 'ivfflat') AND o.opcname = t.typname || '_cosine_ops')
            THEN format('CREATE INDEX %%sON %%I.%%I USING hnsw (%%I %%s_cosine_ops)',
                        CASE WHEN c.relkind = 'p' THEN '' ELSE 'CONCURRENTLY ' END, n.nspname, c.relname, a.attname,
                        t.typname) END
  FROM embedmill.table_sources s
  JOIN pg_class c ON c.oid = s.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.target_column AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE s.record_source_id = %(id)s;

-- name: briefly
-- Neither the table nor whoever asks is kept waiting.
SELECT set_config('statement_timeout', %(milliseconds)s, true), set_config('lock_timeout', '500ms', true);

-- name: count_rows_with_vector
SELECT embedmill.count_column(%(id)s, %(limit)s);
