-- name: column_sources
-- The tables of a pipeline whose vectors stand in a column, with that column and the one of another generation.
SELECT s.id, s.name, t.target_column, c.column_name
  FROM embedmill.record_sources s
  JOIN embedmill.table_sources t ON t.record_source_id = s.id AND t.target_column IS NOT NULL
  LEFT JOIN embedmill.target_columns c
    ON c.record_source_id = s.id AND c.generation_id = %(generation_id)s::integer
 WHERE s.pipeline_id = %(pipeline_id)s
 ORDER BY s.name;

-- name: set_target_column
SELECT embedmill.set_target_column(%(record_source_id)s, %(generation_id)s, %(column)s);
