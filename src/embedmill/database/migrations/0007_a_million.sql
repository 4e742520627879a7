-- What a million chunks and jobs ask for: indexes of searches and pages.

-- (search) Filters by metadata. Documents without any, as most are, cost it nothing.
CREATE INDEX knowledge_documents_metadata ON embedmill.knowledge_documents USING gin (metadata jsonb_path_ops)
    WHERE metadata <> '{}';

-- (queue) The dead letters of one generation: how many stand.
CREATE INDEX dead_letters_generation ON embedmill.dead_letters (generation_id) WHERE resolved_at IS NULL;

-- (coverage) Of which source of records an item was that was given up (0: an upload), so that they are counted without
-- looking for their documents.
ALTER TABLE embedmill.dead_letters ADD COLUMN record_source_id integer NOT NULL DEFAULT 0;
UPDATE embedmill.dead_letters l SET record_source_id = d.record_source_id
  FROM embedmill.knowledge_documents d WHERE d.id = l.document_id AND d.record_source_id <> 0;
CREATE INDEX dead_letters_source ON embedmill.dead_letters (generation_id, record_source_id)
    WHERE resolved_at IS NULL AND chunk_id IS NULL AND item_id IS NOT NULL;

-- (coverage) Made anew with the number of one source; what it called for each source is a part of it now.
DROP FUNCTION IF EXISTS embedmill.source_coverage(integer);
DROP FUNCTION IF EXISTS embedmill.unread_changes(integer);
DROP FUNCTION IF EXISTS embedmill.unembeddable_reasons(integer, integer, integer);
