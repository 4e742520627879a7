-- name: passing
-- What a filter leaves (functions/81_searching.sql).
SELECT share, documents::text, cardinality(documents)
  FROM embedmill.passing_documents(%(generation_id)s, %(number)s, %(document_id)s, %(source)s, %(metadata)s::jsonb);

-- name: by_vector
-- The nearest vectors of the generation's own table (functions/81_searching.sql), and those that stand in columns of users'
-- tables; each best first. (Zeros, which users may have written into their column, are similar to nothing.) Where the
-- filter's documents are asked for in parts, from the first to the last of each, the columns belong to the first part.
SELECT chunk_id, similarity
  FROM embedmill.search_vectors(%(generation_id)s, %(vector)s, %(number)s, %(document_id)s, %(source)s,
                                %(metadata)s::jsonb, %(share)s, (%(documents)s::bigint[])[%(first)s:%(last)s])
 WHERE similarity <> 'NaN'
 UNION ALL
SELECT chunk_id, similarity
  FROM embedmill.search_columns(%(generation_id)s, %(vector)s, %(number)s, %(document_id)s, %(source)s,
                                %(metadata)s::jsonb)
 WHERE similarity <> 'NaN' AND %(first)s = 1;

-- name: by_text
-- Best full-text rank first (functions/81_searching.sql).
SELECT chunk_id, rank
  FROM embedmill.search_text(%(generation_id)s, %(words)s, %(number)s, %(document_id)s, %(source)s,
                             %(metadata)s::jsonb, %(share)s, %(documents)s::bigint[]);

-- name: similarity_of_chance
-- How similar to the query what has nothing to do with it is (functions/81_searching.sql).
SELECT embedmill.similarity_of_chance(%(generation_id)s, %(vector)s);
