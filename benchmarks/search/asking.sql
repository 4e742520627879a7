-- name: default_depth
-- As deep as the product looks for a page of ten.
SET hnsw.ef_search = 100;

-- name: bare_index
SELECT chunk_id FROM {vectors} ORDER BY embedding <=> %(query)s::halfvec(384) LIMIT %(limit)s;

-- name: sessions
SELECT pid FROM pg_stat_activity WHERE application_name = %(name)s;
