-- name: tenant
INSERT INTO embedmill.tenants (slug) VALUES (%(slug)s) ON CONFLICT DO NOTHING;

-- name: indexes_of_chunks
-- What is cheaper built afterwards.
SELECT c.relname, pg_get_indexdef(c.oid) FROM pg_class c
 WHERE c.oid IN ('embedmill.knowledge_chunks_text'::regclass, 'embedmill.knowledge_chunks_content'::regclass);

-- name: drop_indexes_of_chunks
DROP INDEX embedmill.knowledge_chunks_text, embedmill.knowledge_chunks_content;

-- name: documents
-- Uploads, as their ingestion leaves them.
COPY embedmill.knowledge_documents (id, tenant_id, pipeline_id, source_type, source_id, name, title, media_type,
     size_bytes, content_hash, chunk_count, metadata) FROM STDIN;

-- name: chunks
-- The trigger counts them; full text is the table's own.
COPY embedmill.knowledge_chunks (id, tenant_id, pipeline_id, document_id, ordinal, start_offset, end_offset,
     token_count, text_config, content_hash, text) FROM STDIN;

-- name: vectors
COPY {vectors} (document_id, chunk_id, input_hash, embedding) FROM STDIN (FORMAT binary);

-- name: stored_vectors
COPY (SELECT chunk_id, embedding FROM {vectors}) TO STDOUT (FORMAT binary);

-- name: count_embedded
-- What the embedder would have counted.
UPDATE embedmill.coverage_counters SET embedded = chunks WHERE generation_id = %(generation_id)s;

-- name: sizes
SELECT pg_relation_size(to_regclass({index})), pg_table_size({vectors}), pg_database_size(current_database());

-- name: note
-- How long the index took, for whoever measures later.
COMMENT ON TABLE {vectors} IS {seconds};

-- name: noted
SELECT obj_description({vectors}::regclass)::float8;
