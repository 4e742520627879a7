-- name: empty_columns
-- Rows without a text that is embedded: their column in the user's table is emptied by and by.
SELECT embedmill.empty_columns(%(record_source_id)s, %(keys)s::text[]);

-- name: adopt_columns
-- Vectors that stand in the column already; how many.
SELECT embedmill.adopt_columns(%(record_source_id)s, %(generation_id)s, %(document_ids)s::bigint[]);
