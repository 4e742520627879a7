-- embedmill: compatible-since 0010

-- (search) A filter's documents are handed on, and no longer their chunks, several to each: matching_documents.
DROP FUNCTION IF EXISTS embedmill.matching_chunks(integer, bigint, text, jsonb, integer);
