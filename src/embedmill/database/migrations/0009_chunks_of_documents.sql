-- embedmill: no-transaction
-- embedmill: compatible-since 0008

-- (search) Which chunks a document has in which plan, without reading them: a filter that leaves thousands of documents
-- asks it of each. Made beside the writers; a build that was killed is thrown away first.
DROP INDEX CONCURRENTLY IF EXISTS embedmill.knowledge_chunks_of_document;
CREATE INDEX CONCURRENTLY knowledge_chunks_of_document
    ON embedmill.knowledge_chunks (document_id, chunk_set, ordinal) INCLUDE (id);
DROP INDEX CONCURRENTLY IF EXISTS embedmill.knowledge_chunks_document;
