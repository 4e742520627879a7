-- name: stage
-- A table of the session's own for one response's vectors.
CREATE TEMP TABLE IF NOT EXISTS {stage} ON COMMIT DELETE ROWS
    AS SELECT chunk_id, document_id, input_hash, embedding FROM {vectors} WITH NO DATA;

-- name: copy
COPY {stage} ({columns}) FROM STDIN (FORMAT binary);

-- name: store
-- From there into users' columns, and beside the chunks.
SELECT embedmill.store_staged_vectors(%(generation_id)s);

-- name: settle
-- Some rows of one column are brought to what is right; NULL: nothing is due.
SELECT embedmill.settle_columns(%(limit)s);

-- name: tell
-- What is wrong with a column stands in the trouble of its source.
SELECT embedmill.tell_column_troubles();
