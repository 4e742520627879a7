-- Indexes for what grows: filters of a search, and a generation's letters.

-- (search) Filters by metadata. Documents without any, as most are, cost it nothing.
CREATE INDEX knowledge_documents_metadata ON embedmill.knowledge_documents USING gin (metadata jsonb_path_ops)
    WHERE metadata <> '{}';

-- (queue) The dead letters of one generation: how many stand, for its coverage.
CREATE INDEX dead_letters_generation ON embedmill.dead_letters (generation_id) WHERE resolved_at IS NULL;
