-- What becomes of a table's documents when it is removed, or added again. Each call takes some of them, in a transaction
-- of its own; the order of locks is record_sources, documents, items, chunks, counters.

-- Documents change hands: from a source that is removed to none, or back when its table is added again. Their counts go
-- with them. Called with their rows locked.
CREATE OR REPLACE FUNCTION embedmill.move_documents(p_document_ids bigint[], p_from integer, p_to integer) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    v record;
BEGIN
    UPDATE embedmill.knowledge_documents SET record_source_id = p_to WHERE id = ANY (p_document_ids);
    UPDATE embedmill.knowledge_chunks SET record_source_id = p_to WHERE document_id = ANY (p_document_ids);
    FOR v IN
        SELECT DISTINCT g.id, g.chunk_set
          FROM embedmill.knowledge_documents d JOIN embedmill.generations g ON g.pipeline_id = d.pipeline_id
         WHERE d.id = ANY (p_document_ids) ORDER BY g.id
    LOOP
        EXECUTE format(
            'INSERT INTO embedmill.coverage_counters AS k'
            '    (generation_id, record_source_id, chunks, embedded, unembeddable)'
            ' SELECT $1, s.id, s.sign * n.chunks, s.sign * n.embedded, s.sign * n.refused'
            '   FROM (SELECT count(*) AS chunks, count(v.chunk_id) AS embedded,'
            '                count(*) FILTER (WHERE c.error_reason IS NOT NULL) AS refused'
            '           FROM embedmill.knowledge_chunks c LEFT JOIN embedmill.%I v ON v.chunk_id = c.id'
            '          WHERE c.document_id = ANY ($2) AND c.chunk_set = $3) n,'
            '        (VALUES ($4, -1), ($5, 1)) AS s (id, sign)'
            '  ORDER BY s.id'
            ' ON CONFLICT (generation_id, record_source_id) DO UPDATE'
            '    SET chunks = k.chunks + excluded.chunks, embedded = k.embedded + excluded.embedded,'
            '        unembeddable = k.unembeddable + excluded.unembeddable', 'vectors_' || v.id)
        USING v.id, p_document_ids, v.chunk_set, p_from, p_to;
    END LOOP;
END
$$;

-- Some documents of a source become documents of none, with their vectors; returns how many.
CREATE OR REPLACE FUNCTION embedmill.release_source_documents(p_record_source_id integer, p_limit integer)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
BEGIN
    PERFORM FROM embedmill.record_sources WHERE id = p_record_source_id FOR NO KEY UPDATE;
    v_ids := ARRAY(SELECT id FROM embedmill.knowledge_documents
                    WHERE record_source_id = p_record_source_id AND record_source_id <> 0
                    ORDER BY id LIMIT p_limit FOR UPDATE);
    PERFORM embedmill.move_documents(v_ids, p_record_source_id, 0);
    UPDATE embedmill.record_sources SET documents = documents - cardinality(v_ids) WHERE id = p_record_source_id;
    RETURN cardinality(v_ids);
END
$$;

-- Some documents that an earlier source of this name left behind become this one's; returns how many.
CREATE OR REPLACE FUNCTION embedmill.adopt_source_documents(p_record_source_id integer, p_limit integer)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_source embedmill.record_sources;
    v_ids bigint[];
BEGIN
    SELECT * INTO v_source FROM embedmill.record_sources WHERE id = p_record_source_id FOR NO KEY UPDATE;
    v_ids := ARRAY(SELECT id FROM embedmill.knowledge_documents
                    WHERE pipeline_id = v_source.pipeline_id AND source_type = v_source.name AND record_source_id = 0
                    ORDER BY id LIMIT p_limit FOR UPDATE);
    PERFORM embedmill.move_documents(v_ids, 0, p_record_source_id);
    UPDATE embedmill.record_sources SET documents = documents + cardinality(v_ids) WHERE id = p_record_source_id;
    RETURN cardinality(v_ids);
END
$$;

-- Some documents that an earlier source of this name left behind go: a column holds one vector of a row's whole text, and
-- theirs may be cut in pieces and have their vectors elsewhere. Returns how many.
CREATE OR REPLACE FUNCTION embedmill.delete_left_documents(p_record_source_id integer, p_limit integer)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_source embedmill.record_sources;
    v_ids bigint[];
BEGIN
    SELECT * INTO v_source FROM embedmill.record_sources WHERE id = p_record_source_id FOR NO KEY UPDATE;
    v_ids := ARRAY(SELECT id FROM embedmill.knowledge_documents
                    WHERE pipeline_id = v_source.pipeline_id AND source_type = v_source.name AND record_source_id = 0
                    ORDER BY id LIMIT p_limit FOR UPDATE);
    PERFORM embedmill.delete_records(v_ids, 'its table was added again, with a column for its vectors');
    RETURN cardinality(v_ids);
END
$$;

-- Some documents of a source go, with their vectors; returns how many. Vectors that stand in a column of the table stay
-- there: who settles what is owed to the column would empty it, finding no document.
CREATE OR REPLACE FUNCTION embedmill.delete_source_documents(p_record_source_id integer, p_limit integer)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_ids bigint[];
    v_keys text[];
BEGIN
    PERFORM FROM embedmill.record_sources WHERE id = p_record_source_id FOR NO KEY UPDATE;
    SELECT coalesce(array_agg(d.id), '{}'), coalesce(array_agg(d.source_id), '{}') INTO v_ids, v_keys
      FROM (SELECT id, source_id FROM embedmill.knowledge_documents
             WHERE record_source_id = p_record_source_id AND record_source_id <> 0
             ORDER BY id LIMIT p_limit FOR UPDATE) d;
    PERFORM embedmill.delete_records(v_ids, 'its table was removed');
    -- Behind the documents: whoever was storing a vector of theirs has written his note by now.
    DELETE FROM embedmill.column_debts WHERE record_source_id = p_record_source_id AND key = ANY (v_keys);
    UPDATE embedmill.record_sources SET documents = documents - cardinality(v_ids) WHERE id = p_record_source_id;
    RETURN cardinality(v_ids);
END
$$;
